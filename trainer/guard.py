"""Has the run diverged? Plain arithmetic on what all ranks agreed about each step; no tensors.

In float32 and bfloat16 the first step that is not finite ends it. In float16 the loss scale makes single
non-finite gradients normal: GradScaler searches its scale at first and skips a step now and then.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from trainer.position import Position

# A forward pass that is not finite does not depend on the loss scale, so no halving can cure it.
LOSS_PATIENCE = 4  # float16: consecutive steps with a loss that is not finite
GRADIENT_PATIENCE = 16  # float16: consecutive skipped steps; from 65536, that many halvings reach a scale of 1
MIN_SCALE = 1.0
ALARM_SKIPS, ALARM_WINDOW = 4, 50  # worth a notice

Cause = Literal["loss", "gradients", "scale"]


@dataclass(frozen=True)
class Step:
    """One optimizer step, as all ranks agreed on it."""

    at: Position  # after it: at.step_in_epoch counts it, from 1
    losses: tuple[float, ...]  # by rank; local losses differ
    finite: tuple[bool, ...]  # by rank: its own forward pass, before anything was gathered
    grad_norm: float  # after the all-reduce: the same on every rank
    scale: float | None  # of the loss; None without GradScaler
    logit_scale: float
    patch_rms: float | None = None  # trainer.patch_rms
    own_seconds: tuple[float, ...] = ()  # by rank: before it first waited for the others

    @cached_property
    def loss(self) -> float:
        return math.fsum(self.losses) / len(self.losses) if all(map(math.isfinite, self.losses)) else math.nan

    @cached_property
    def loss_is_finite(self) -> bool:
        return all(self.finite) and all(map(math.isfinite, self.losses))

    @property
    def skipped(self) -> bool:
        """No weight was changed: the update is refused on the device, by the same facts."""
        return not (self.loss_is_finite and math.isfinite(self.grad_norm))

    @property
    def bad_ranks(self) -> tuple[int, ...]:
        """Those whose own forward pass was not finite; where all were (only gradients were not), all."""
        bad = tuple(rank for rank, finite in enumerate(self.finite) if not finite)
        return bad or tuple(range(len(self.finite)))


@dataclass(frozen=True)
class Divergence:
    onset: Step  # the first bad step of the unbroken series that ended the run
    cause: Cause


class Guard:
    def __init__(self) -> None:
        self._series: list[Step] = []  # consecutive skipped steps; never longer than GRADIENT_PATIENCE
        self._recent: deque[bool] = deque(maxlen=ALARM_WINDOW)
        self.skipped = 0  # in this attempt

    def judge(self, step: Step) -> Divergence | None:
        self._recent.append(step.skipped)
        if not step.skipped:
            self._series.clear()
            return None
        self.skipped += 1
        self._series.append(step)
        cause = self._cause(step)
        return Divergence(self._series[0], cause) if cause else None

    def _cause(self, step: Step) -> Cause | None:
        losses = sum(not earlier.loss_is_finite for earlier in self._series)
        if step.scale is None:
            return "loss" if losses else "gradients"
        if losses >= LOSS_PATIENCE:
            return "loss"
        if step.scale < MIN_SCALE:
            return "scale"
        return "gradients" if len(self._series) >= GRADIENT_PATIENCE else None

    def alarm(self) -> str | None:
        """A sentence once the loss scale is in trouble: at the step that makes it so, not at every one after."""
        if sum(self._recent) == ALARM_SKIPS and self._recent[-1]:
            return f"{ALARM_SKIPS} of the last {len(self._recent)} steps were skipped: the loss scale is falling"
        return None
