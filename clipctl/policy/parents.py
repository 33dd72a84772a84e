"""Where to go on: never damaged, never with weights that are not finite, never from after a rise."""

from __future__ import annotations

from clipctl.domain import CheckpointRecord, History, Incident, IncidentKind, RecoverySpec
from clipctl.lineage import line_of, position
from clipctl.policy.objections import parent_objections
from trainer.contract import Parent


def parent_after(
    history: History, incident: Incident | None, recovery: RecoverySpec
) -> tuple[CheckpointRecord | Parent | None, str]:
    """Where to go on after such an end, and why there. None: from the start."""
    usable = [checkpoint for checkpoint in line_of(history) if is_usable(checkpoint, history)]
    if incident is None or incident.kind is not IncidentKind.DIVERGED:
        return (usable[0], "the newest good checkpoint") if usable else (None, "no checkpoint yet: from the start")
    finished = max((incident.epoch or 1) - 1, 0)
    why = f"epochs done: {finished}, of which the last {recovery.rollback_epochs} are given up"
    for checkpoint in usable:
        if position(checkpoint) <= (finished - recovery.rollback_epochs, 0):
            return checkpoint, why
    root = usable[-1] if usable and isinstance(usable[-1], Parent) else None
    return root, f"{why}: from the run's own start"


def is_usable(checkpoint: CheckpointRecord | Parent, history: History) -> bool:
    return not list(parent_objections(checkpoint, history))
