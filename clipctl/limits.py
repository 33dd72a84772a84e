"""How long silence may last, and how far a loss may stray, before it means something. Part of `clipctl.domain`."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.contract import Count, CountOrZero, NotNegative, Phase, Positive


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds without a sign of life, by what the trainer is at, before a job that runs counts as hung.

    Never less than three times the file system's attribute cache (NFS: 60 s), or a heartbeat only looks old.
    """

    starting: NotNegative = 1800.0  # imports, the ranks' meeting, and a parent that each of them reads
    training: NotNegative = 600.0  # torch's own time limit of a collective
    steps: NotNegative = 20.0  # or as long as so many of the run's own steps take, where that is longer
    checkpointing: NotNegative = 1800.0  # a save of minutes, on a file system that everybody else saves to as well
    evaluating: NotNegative = 3600.0  # 50,000 images, and a thousand classes by eighty texts
    look: NotNegative = 300.0  # at most so much of it is counted from one look to the next: clocks jump, readers sleep

    def of(self, phase: Phase, seconds_per_step: float | None) -> float:
        """For one phase."""
        if phase is Phase.TRAINING:
            return max(self.training, self.steps * (seconds_per_step or 0.0))
        return {
            Phase.STARTING: self.starting,
            Phase.CHECKPOINTING: self.checkpointing,
            Phase.EVALUATING: self.evaluating,
        }[phase]


@dataclass(frozen=True, kw_only=True)
class LossLimits:
    """Of a run's losses, each as a share of ln(global batch): a model that only guesses has 1.

    Steps are those of the run; where an epoch is short, the given part of it counts instead.
    """

    plateau: Positive = 0.9  # stuck above this after warm-up. H/14, L/14 and g/14 stood at 11 of 11.3 (LAION): 0.97
    rise: Positive = 0.1  # of the way from its own level to guessing: less is no trouble by itself
    deviations: Positive = 6.0  # of its own noise, as well: OLMo-core's rule for a step to be skipped
    settle_steps: CountOrZero = 200  # after a start and an epoch's border, where losses are like stairs (open_clip#822)
    settle_epochs: NotNegative = 0.1
    sustained_steps: CountOrZero = 200  # a plateau lasts as long
    sustained_epochs: NotNegative = 0.1
    return_steps: Count = 1000  # a spike may come back by itself in this; PaLM skipped 200 to 500 batches around one
    return_epochs: NotNegative = 0.5
    slow_returns: Positive = 4.0  # as often as that, where it is on its way back
    slow_start_epochs: NotNegative = 2.0  # after warm-up, for a loss that never was below the plateau
    slow_start_steps: CountOrZero = 200  # and no fewer than so many, however short an epoch is
    scale_halvings: Count = 3  # of float16's loss scale within `scale_steps`: said, as an early sign (OPT-175B)
    scale_steps: Count = 500
    norm_rise: Positive = 10.0  # gradient norm over its own median: said (SPAM: gradients spike up to 1000-fold)
    patch_rms: Positive = 2.3  # of the patch embedding: said (arXiv 2304.13013: a spike often follows within 8 steps)
    pace: Positive = 0.5  # of the run's own samples a second: a slow job (NVRx: half is twice too slow)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Patience, in seconds: fields of the cluster profile."""

    lost_after: NotNegative = 180.0  # successful answers that omit a job must span this before it counts as gone
    unanswered_for: NotNegative = 180.0  # the same for a job whose submission was never answered: it may yet arrive
    claim_wait: NotNegative = 600.0  # a job waits this long for an earlier attempt's processes to end
    stop_grace: NotNegative = 600.0  # a job that was stopped has this long to save; then it is killed
    rank_grace: NotNegative = 30.0  # ranks that are left when one failed; SIGTERM then, and SIGKILL after as long again
    poll_every: NotNegative = 15.0  # while somebody watches; schedulers are not to be asked in a loop
    query_timeout: Positive = 30.0  # a question to the scheduler
    submit_timeout: Positive = 180.0  # sbatch itself tries again for two minutes
    patience: Patience = Patience()
    loss: LossLimits = LossLimits()

    @property
    def first_sign(self) -> float:
        """Seconds for which a job may run before anything is heard of it: it waits for an earlier one, and starts."""
        return self.claim_wait + self.patience.starting
