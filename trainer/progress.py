"""What happened in the last `log_every_n_steps` steps, in one event: the only place where steps are summed up."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from trainer.continuity import comparable
from trainer.contract import EventKind, Phase, TrainSpec
from trainer.guard import Step
from trainer.position import Position
from trainer.recorder import Recorder


class Moment(NamedTuple):
    """Of a step, on the host's way through the loop: it is read one step later, or at an epoch's end at once."""

    time: float  # seconds, of perf_counter
    waited: float  # seconds for data, since training began


class Progress:
    def __init__(self, spec: TrainSpec, recorder: Recorder, left_off: Mapping[str, float]) -> None:
        """`left_off`: the parent's last progress; empty: there is none."""
        self._left_off = left_off
        self._every = spec.log_every_n_steps
        self._recorder = recorder
        self._window: list[Step] = []
        self._waited = 0.0
        self._wanted_since = time.perf_counter()
        self._since = Moment(self._wanted_since, 0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Saving and evaluating are no part of training's speed."""
        before = time.perf_counter()
        yield
        pause = time.perf_counter() - before
        self._since = self._since._replace(time=self._since.time + pause)

    def wants_batch(self) -> None:
        """From here on the loop waits for data."""
        self._wanted_since = time.perf_counter()

    def batch_arrived(self) -> None:
        self._waited += self.since_wanted()

    def since_wanted(self) -> float:
        """Seconds."""
        return time.perf_counter() - self._wanted_since

    def moment(self) -> Moment:
        return Moment(time.perf_counter(), self._waited)

    def add(self, step: Step, taken: Moment, lr: float, skipped: int, unsaved: str | None) -> None:
        self._window.append(step)
        speed = None
        if step.at.step % self._every == 0 or step.at.at_border:
            speed = self._close_window(step, taken, lr, skipped, unsaved)
        self._recorder.beat(Phase.TRAINING, step.at, loss=step.loss, speed=speed)

    def _close_window(self, step: Step, taken: Moment, lr: float, skipped: int, unsaved: str | None) -> float:
        seconds, waited = max(taken.time - self._since.time, 1e-9), taken.waited - self._since.waited
        steps = len(self._window)
        speed = steps * step.at.geometry.global_batch / seconds
        facts = _summary(self._window) | {
            "step_in_epoch": step.at.step_in_epoch,
            "steps_per_epoch": step.at.geometry.steps_per_epoch,
            "scale": step.scale,
            "skipped": skipped,
            "lr": lr,
            "logit_scale": step.logit_scale,
            "samples_per_second": round(speed, 3),
            "data_seconds": round(waited, 6),
            "seconds": round(seconds, 6),
            **_patch_rms(self._window),
            **({"unsaved": unsaved} if unsaved else {}),
        }
        self._recorder.event(EventKind.PROGRESS, step.at, **facts)
        self._recorder.scalars(_tensorboard_names(facts, steps, step.at), step.at.step)
        if self._left_off:
            self._recorder.event(EventKind.CONTINUED, step.at, before=self._left_off, after=comparable(facts))
            self._left_off = {}
        self._window.clear()
        self._since = taken
        return speed

    def evaluated(self, facts: Mapping[str, Any], at: Position) -> None:
        names = {"top1": "val/imagenet-zeroshot-val-top1", "top5": "val/imagenet-zeroshot-val-top5"}
        self._recorder.scalars({names[key]: facts[key] for key in names if key in facts}, at.epochs_done)


def _summary(window: list[Step]) -> dict[str, float]:
    """Over the window's steps; the maximum is over ranks too. A skipped step's nan is seen as nan."""
    losses = [step.loss for step in window]
    norms = [step.grad_norm for step in window]
    return {
        "loss": math.fsum(losses) / len(losses) if all(map(math.isfinite, losses)) else math.nan,
        "loss_max": max(map(_worst, window), key=_nan_is_largest),
        "loss_last": losses[-1],
        "grad_norm": norms[-1],
        "grad_norm_max": max(norms, key=_nan_is_largest),
        **_slowest_rank(window),
    }


def _patch_rms(window: list[Step]) -> dict[str, float]:
    known = [step.patch_rms for step in window if step.patch_rms is not None]
    return {"patch_rms_max": max(known, key=_nan_is_largest)} if known else {}


def _slowest_rank(window: list[Step]) -> dict[str, float]:
    """Whom the others wait for, if anybody: what every rank did alone, in seconds of the whole window."""
    seconds = [math.fsum(steps) for steps in zip(*(step.own_seconds for step in window), strict=True)]
    if len(seconds) < 2:
        return {}
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    return {
        "slowest_rank": slowest,
        "slowest_seconds": round(seconds[slowest], 6),
        "median_seconds": round(statistics.median_low(seconds), 6),
    }


def _worst(step: Step) -> float:
    return max(step.losses, key=None if step.loss_is_finite else _nan_is_largest)  # a call a rank and step is dear


def _nan_is_largest(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _tensorboard_names(facts: Mapping[str, Any], steps: int, at: Position) -> dict[str, float]:
    """open_clip's names, so that its dashboards go on working; times are seconds a step."""
    speed = facts["samples_per_second"]
    return {
        "train/data_time": facts["data_seconds"] / steps,
        "train/batch_time": facts["seconds"] / steps,
        "train/samples_per_second": speed,
        "train/samples_per_second_per_gpu": speed / at.geometry.ranks,
        "train/scale": facts["logit_scale"],
        "train/lr": facts["lr"],
        "train/contrastive_loss": facts["loss"],
        "train/loss": facts["loss"],
    }
