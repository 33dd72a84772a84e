"""How long a rank waits for the others before it takes them for lost: long while they start or evaluate, else short."""

from __future__ import annotations

from trainer.contract import Phase

# Seconds of one collective. Steps: shorter than the watchdog's patience, so that the ranks themselves say first which
# of them is missing, and longer than trainer.stacks takes to write down where each stands.
SECONDS = {
    Phase.STARTING: 1800.0,  # one reads every byte of the parent; the first step chooses its kernels
    Phase.TRAINING: 480.0,
    Phase.CHECKPOINTING: 1800.0,
    Phase.EVALUATING: 3600.0,  # ranks have unequal shares of the images, and disks
}
