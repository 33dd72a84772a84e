"""What open_clip_train's out.log comes to: the events and heartbeats of an attempt, and whether it has diverged.

It logs a step in `log_every_n_steps`, the first and the last of each epoch among them, and of a step rank 0's loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.continuity import comparable
from trainer.contract import EventKind, Phase, Precision, TrainSpec
from trainer.open_clip_log import (
    BadSample,
    EpochEnded,
    EpochStarted,
    Evaluated,
    Evaluating,
    Fact,
    Progress,
    Resumed,
    read_log,
)
from trainer.position import Position
from trainer.recorder import Recorder
from trainer.unusable import Unusable

ACCURACIES = {"top1": "imagenet-zeroshot-val-top1", "top5": "imagenet-zeroshot-val-top5"}
# GradScaler leaves out the update of a step that is not finite: in float16 one such line may be a step by itself.
BORNE = {Precision.AMP_FP16: 1}  # lines in a row with a loss that is not finite


@dataclass(frozen=True)
class Onset:
    """The first bad line of the unbroken series that ended the attempt, or the checkpoint that was bad."""

    at: Position
    loss: float | None
    cause: str


class Log:
    """A file that another process appends to, read as it grows. One that is not there yet is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.size = 0

    def facts(self) -> list[Fact]:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._read)
                chunk = file.read()
        except FileNotFoundError:
            return []
        self.size = self._read + len(chunk)
        lines, whole = read_log(chunk)
        self._read += whole
        return [line.fact for line in lines]


class Follower:
    """`saved` is called with an epoch's border once everything of that epoch is done, its checkpoint included."""

    def __init__(
        self,
        spec: TrainSpec,
        start: Position,
        recorder: Recorder,
        saved: Callable[[Position, float | None], None],
        left_off: Mapping[str, float],
        foreign: bool,
    ) -> None:
        """`left_off`: the parent's last progress. `foreign`: only the log says how many epochs the parent has done."""
        self._spec, self._recorder, self._saved = spec, recorder, saved
        self._left_off, self._foreign = left_off, foreign
        self.at = start
        self.phase = Phase.STARTING
        self.onset: Onset | None = None
        self._bad: list[Onset] = []  # lines in a row
        self._lines = 0  # of progress
        self._loss: float | None = None  # of the newest one
        self._border = False  # the epoch before `at` is done, but not everything that follows it
        self._bad_samples = 0  # rank 0's, since the last border

    def take(self, fact: Fact) -> None:
        if self.onset is None:  # what comes after it follows from it
            self._take(fact)

    def completed(self) -> bool:
        """Asked when the process has ended well: whether it did all that it was for."""
        self._close_border()
        return self.at.epochs_done >= self._spec.epochs

    # --- one for each kind of fact ---

    def _take(self, fact: Fact) -> None:
        match fact:
            case Resumed() if self._foreign:
                self._place(fact.epochs_done)
            case EpochStarted():
                self._begin_epoch(fact.epoch)
            case Progress():
                self._step(fact)
            case EpochEnded() | Evaluating() if self._border:
                self.phase = Phase.EVALUATING
            case Evaluated():
                numbers = {name: fact.metrics[theirs] for name, theirs in ACCURACIES.items() if theirs in fact.metrics}
                self._recorder.event(EventKind.EVALUATED, self.at, epochs_done=fact.epochs_done, **numbers)
                self.phase = Phase.CHECKPOINTING
            case BadSample():
                self._bad_samples += 1

    def _place(self, epochs_done: int) -> None:
        samples = self.at.samples_seen or epochs_done * self.at.geometry.samples_per_epoch
        self.at = replace(self.at, epochs_done=epochs_done, samples_seen=samples)
        self._notice("the parent is not clipctl's: samples seen are computed")

    def _begin_epoch(self, epoch: int) -> None:
        self._close_border()
        if epoch != self.at.epoch:
            raise Unusable(f"open_clip_train starts epoch {epoch}, and {self.at.epoch} is due")
        self.phase = Phase.TRAINING

    def _step(self, fact: Progress) -> None:
        geometry = self.at.geometry
        done, odd = divmod(fact.samples, geometry.global_batch)
        steps = done - self.at.step_in_epoch
        if odd or steps < 1 or done > geometry.steps_per_epoch:
            due = f"{geometry.steps_per_epoch} steps of {geometry.global_batch} samples are due"
            raise Unusable(f"open_clip_train is at sample {fact.samples} of epoch {fact.epoch}, and {due}")
        samples = self.at.samples_seen + steps * geometry.global_batch
        self.at = replace(self.at, step_in_epoch=done, samples_seen=samples)
        self._loss = fact.loss
        facts = _facts(fact, steps, self.at)
        self._recorder.event(EventKind.PROGRESS, self.at, **facts)
        self._continue(facts)
        self._judge(fact.loss)
        if self.at.at_border and self.onset is None:
            self._end_epoch()

    # --- what follows from it ---

    def _continue(self, facts: Mapping[str, Any]) -> None:
        """The first line is of one step, which waited for the first batch: its pace says nothing."""
        self._lines += 1
        if self._lines == 2 and self._left_off:
            self._recorder.event(EventKind.CONTINUED, self.at, before=self._left_off, after=comparable(facts))

    def _judge(self, loss: float) -> None:
        if math.isfinite(loss):
            self._bad.clear()
            return
        self._bad.append(Onset(self.at, loss, "loss"))
        if len(self._bad) > BORNE.get(self._spec.precision, 0):
            self.onset = self._bad[0]

    def _end_epoch(self) -> None:
        self.at = self.at.after_epoch()
        self._border = True
        self.phase = Phase.CHECKPOINTING if self._spec.zeroshot is None else Phase.EVALUATING
        if self._bad_samples:
            self._notice(f"rank 0 left out {self._bad_samples} samples, or rests of shards, that could not be used")
            self._bad_samples = 0

    def _close_border(self) -> None:
        """Nothing is logged when a checkpoint is written; but the next epoch begins, or the process ends, after it."""
        if not self._border:
            return
        self._border = False
        if self._loss is not None and not math.isfinite(self._loss):  # in float16 that may be the beginning of the end
            self._notice("the loss is not finite: no checkpoint is published")
        else:
            self._saved(self.at, self._loss)

    def _notice(self, text: str) -> None:
        self._recorder.event(EventKind.NOTICE, self.at, text=text)


def _facts(fact: Progress, steps: int, at: Position) -> dict[str, Any]:
    """As the torch engine's, as far as the log has them. Times are means over the steps since the line before."""
    measured = at.geometry.global_batch / fact.batch_time if fact.batch_time else fact.samples_per_second
    return {
        "loss": fact.loss,
        "loss_last": fact.loss,
        "step_in_epoch": at.step_in_epoch,
        "steps_per_epoch": at.geometry.steps_per_epoch,
        "lr": fact.lr,
        "logit_scale": fact.logit_scale,
        "samples_per_second": measured and round(measured, 3),
        "data_seconds": round(fact.data_time * steps, 6),
        "seconds": round(fact.batch_time * steps, 6),
        **({} if fact.grad_norm is None else {"grad_norm": fact.grad_norm, "grad_norm_max": fact.grad_norm}),
    }
