"""What can be changed against a divergence, in order: the next precisions of the ladder, then rung after rung."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from clipctl.domain import History, RecoverySpec, Rung
from clipctl.policy.budget import since_progress
from clipctl.policy.settings import value_at
from trainer.contract import Engine, Precision

Train = Mapping[str, Any]


def changes(history: History, recovery: RecoverySpec) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Patches with their reasons. Each rung once between two high-water marks; what failed is for others to tell."""
    newest = history.attempts[-1].train
    current = Precision(newest["precision"])
    for precision in later_precisions(recovery, current):
        yield {"train.precision": str(precision)}, f"{precision} comes after {current}"
    before = since_progress(history)[0].train
    for rung in recovery.rungs:
        path, change = _RUNGS[rung]
        value = change(newest, recovery)
        if value is not None and value_at(newest, path) == value_at(before, path):
            yield {path: value}, f"{rung.replace('_', ' ')}: {path}={value}"


def later_precisions(recovery: RecoverySpec, current: Precision) -> tuple[Precision, ...]:
    ladder = recovery.precision_ladder
    return ladder[ladder.index(current) + 1 :] if current in ladder else ()


# --- rungs: the value to set, or None where the rung changes nothing ----------------------------------


def _seed(train: Train, recovery: RecoverySpec) -> int:
    return int(value_at(train, "train.seed") or 0) + 1


def _lr(train: Train, recovery: RecoverySpec) -> float | None:
    rate = value_at(train, "train.optim.lr")
    return float(f"{rate * (1 - recovery.lr_cut):.6g}") if rate and recovery.lr_cut else None


def _clip(train: Train, recovery: RecoverySpec) -> float | None:
    clip = value_at(train, "train.optim.grad_clip_norm")
    return recovery.grad_clip_norm if clip is None or clip > recovery.grad_clip_norm else None


def _beta2(train: Train, recovery: RecoverySpec) -> float | None:
    if value_at(train, "train.engine") == Engine.OPEN_CLIP:  # it goes on with the checkpoint's
        return None
    beta2 = value_at(train, "train.optim.beta2")
    return recovery.beta2 if beta2 is not None and beta2 > recovery.beta2 else None


_RUNGS: Mapping[Rung, tuple[str, Callable[[Train, RecoverySpec], float | None]]] = {
    Rung.OTHER_DATA: ("train.seed", _seed),
    Rung.LOWER_LR: ("train.optim.lr", _lr),
    Rung.CLIP_GRADIENTS: ("train.optim.grad_clip_norm", _clip),
    Rung.LOWER_BETA2: ("train.optim.beta2", _beta2),
}
