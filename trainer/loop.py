"""The training loop: one for torch on GPUs or CPUs, and for any other `Trainee` on any other `Ranks`.

No tensor is touched here. What a step measured stays where the trainee computes (a "row"); all ranks exchange
their rows in one small collective, the update is refused on the device where any of them is not finite, and the
host reads the result one step later, when it has long arrived. So no step waits for the host, and yet every rank
takes the same decision (stop, diverged, too much bad data) at the same step.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from trainer import garbage
from trainer.contract import EventKind, ExitCode, FaultKind, Phase, TrainSpec
from trainer.faults import Faults
from trainer.guard import Divergence, Guard, Step
from trainer.position import Position
from trainer.progress import Moment, Progress
from trainer.recorder import Recorder
from trainer.schedule import learning_rate
from trainer.signals import StopRequest
from trainer.stacks import Stacks

READ_BEHIND = 1  # steps between a step and the reading of its rows
MIN_BAD_SAMPLES = 16  # a fraction of fewer says nothing yet


@dataclass(frozen=True)
class Measured:
    """All ranks' rows of a step, read by the host: what differs by rank in the order of ranks, the rest summed up.

    By columns: 384 records a step, on each of 384 ranks, cost more than the step.
    """

    losses: Sequence[float]
    finite: Sequence[float]  # 1.0: the loss, and what this rank put into it; else 0.0
    grad_norm: float
    scale: float  # of the loss; 0.0: there is none
    logit_scale: float
    patch_rms: float  # 0.0: not known
    stop: float  # the signal that asks to stop; 0.0: none
    bad: float  # samples of this step's batch that could not be used
    seen: float
    own_seconds: Sequence[float]  # before it first waited for the others: data, and its own forward pass
    due: float  # 1.0: rank 0 asks for a checkpoint

    @classmethod
    def of(cls, columns: Sequence[Sequence[float]]) -> Measured:
        """A row's eleven numbers, each of all ranks: the first six come from the trainee, the others are `Said`."""
        losses, finite, norms, scales, logit_scales, patches, stops, bad, seen, own, due = columns
        alike = max(norms), scales[0], logit_scales[0], patches[0]
        return cls(losses, finite, *alike, max(stops), sum(bad), sum(seen), own, max(due))


class Said(NamedTuple):
    """What the loop of one rank adds to its row: as `Measured` has it of all."""

    stop: int
    bad: int
    seen: int
    own_seconds: float
    due: bool = False  # a checkpoint, by what rank 0 alone knows


class Agreement(Protocol):
    """What all ranks' rows of a step come to, so that all decide alike. Rank 0 has the numbers of each for the events;

    the others may have one that says the same of all.
    """

    def read(self) -> Measured: ...


class Ranks(Protocol):
    rank: int
    count: int

    def enter(self, phase: Phase) -> None:
        """How long they wait for each other depends on it (trainer.deadlines)."""

    def agree(self, row: Any, said: Said) -> Agreement: ...
    def gather(self, value: Any) -> list[Any]:
        """Of plain objects; waits for the host, so only where training pauses anyway."""


class Trainee(Protocol):
    """A model, its optimizer and its arithmetic."""

    own_seconds: float  # its newest forward pass, as far as the host knows, up to where it waits for other ranks

    def forward_backward(self, batch: Any, at: Position) -> Any:
        """This rank's row: loss, finite, grad_norm, scale, logit_scale, patch_rms."""

    def update(self, agreed: Agreement, lr: float) -> None:
        """One optimizer step if every rank's numbers are finite; decided where they are, not by the host."""

    def rehearse(self, kind: FaultKind) -> None:
        """From now on compute as the fault does (overflow, plateau)."""

    def reserve(self) -> Callable[[], None]:
        """What makes room for the copies of its state, so that not even the first one waits for memory: any thread

        may call it, while training goes on.
        """

    def state(self) -> dict[str, Any]:
        """A copy that training leaves alone, valid until the next one is taken. Rank 0's."""

    def contribute(self) -> None:
        """What the other ranks do at the step at which rank 0 takes its copy."""

    def is_finite(self, state: Mapping[str, Any]) -> bool:
        """The weights in such a copy."""


class Batch(Protocol):
    bad: Mapping[str, int]  # samples that could not be used, by shard
    seen: int


class Source(Protocol):
    def batches(self, epoch: int, first_step: int) -> Iterator[Any]:
        """From a step (from 0) of an epoch (from 1) to the epoch's end."""


class Keeper(Protocol):
    unsaved: str | None  # which checkpoint the disk refused last, and its words; None: the newest save went well

    def due(self, at: Position) -> bool:
        """By what every rank knows."""

    def asked(self) -> bool:
        """By what rank 0 alone knows: its clock, a person's word. The others read it in its row, and all save at the

        same step.
        """

    def save(self, at: Position, loss: float | None) -> None:
        """Returns when the state is copied; it is written while training goes on."""

    def finish(self) -> str | None:
        """Waits for the last save: its path in the attempt's folder; None on ranks that write nothing, or if there is

        none, or its weights are not finite. Raises what prevented it.
        """


@dataclass(frozen=True)
class Outcome:
    code: ExitCode
    kind: EventKind
    at: Position
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a loop needs; `trainer.rank` puts it together."""

    spec: TrainSpec
    trainee: Trainee
    ranks: Ranks
    source: Source
    keeper: Keeper
    recorder: Recorder
    stop: StopRequest
    faults: Faults
    stacks: Stacks
    left_off: Mapping[str, float]  # the parent's last progress
    evaluate: Callable[[], Mapping[str, Any]]  # zero-shot accuracy, or {"error": ...}


class Loop:
    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.spec = parts.spec
        self.recorder = parts.recorder
        self.guard = Guard()
        self.progress = Progress(parts.spec, parts.recorder, parts.left_off)
        self.unread: deque[tuple[Position, Moment, float, Agreement]] = deque()
        self.last: Step | None = None
        self.stopping = 0  # the signal, once all ranks have agreed on it
        self.asked = False  # for a checkpoint, as all ranks know
        self.bad_shards: Counter[str] = Counter()  # this rank's
        self.bad = self.seen = 0.0  # all ranks'

    def run(self, at: Position) -> Outcome:
        started = time.monotonic()
        while at.epochs_done < self.spec.epochs:
            self.progress.wants_batch()
            for batch in self.parts.source.batches(at.epoch, at.step_in_epoch):
                at = self.take_step(batch, at)
                if outcome := self.settle(READ_BEHIND) or self.pause(at):
                    return outcome
                self.progress.wants_batch()
            if outcome := self.settle(0):
                return outcome
            at = at.after_epoch()
            begun = self.end_epoch(at)
            if self.stopping and at.epochs_done < self.spec.epochs:
                return self.stopped(at, begun)
        self.finish(at)
        seconds = round(time.monotonic() - started, 3)
        return Outcome(ExitCode.COMPLETED, EventKind.COMPLETED, at, {"seconds": seconds})

    def take_step(self, batch: Any, at: Position) -> Position:
        parts = self.parts
        self.progress.batch_arrived()
        for kind in parts.faults.let_loose(at, parts.trainee):
            self.recorder.event(EventKind.FAULT, at, fault=kind)
        steps_per_epoch = at.geometry.steps_per_epoch
        lr = learning_rate(self.spec.optim, at.step, epochs=self.spec.epochs, steps_per_epoch=steps_per_epoch)
        seconds = self.progress.since_wanted()
        row = parts.trainee.forward_backward(batch, at)
        own = seconds + parts.trainee.own_seconds
        said = Said(parts.stop.signal, sum(batch.bad.values()), batch.seen, own, parts.keeper.asked())
        agreed = parts.ranks.agree(row, said)
        parts.trainee.update(agreed, lr)
        self.bad_shards.update(batch.bad)
        at = at.after_step()
        self.unread.append((at, self.progress.moment(), lr, agreed))
        garbage.collect(at.step)
        return at

    def settle(self, behind: int) -> Outcome | None:
        """Reads all agreements but the newest `behind`; an outcome where one of them ends the attempt."""
        while len(self.unread) > behind:
            at, taken, lr, agreed = self.unread.popleft()
            measured = agreed.read()
            self.parts.stacks.moved()
            self.parts.ranks.enter(Phase.TRAINING)
            self.last = step = _step(measured, at)
            self.stopping = self.stopping or int(measured.stop)
            self.asked = self.asked or bool(measured.due)
            if divergence := self.guard.judge(step):
                return _diverged(divergence)
            if alarm := self.guard.alarm():
                self.recorder.event(EventKind.NOTICE, at, text=alarm)
            self.progress.add(step, taken, lr, self.guard.skipped, self.parts.keeper.unsaved)
            if outcome := self.count_samples(measured, at):
                return outcome
        return None

    def pause(self, at: Position) -> Outcome | None:
        """At a step's border inside an epoch: stop if asked to, save if it is time."""
        due = self.parts.keeper.due(at)
        if at.at_border or not (self.stopping or self.asked or due):
            return None
        if outcome := self.settle(0):
            return outcome
        if self.stopping:
            return self.stopped(at, begun=self.save(at))
        self.save(at)
        return None

    def end_epoch(self, at: Position) -> bool:
        """The save has begun before it evaluates: no error there costs the epoch. False: nothing is being saved."""
        last = at.epochs_done == self.spec.epochs
        due = last or self.stopping or at.epochs_done % self.spec.save.save_frequency == 0
        begun = due and self.save(at)
        self.report_bad_samples(at)
        zeroshot = self.spec.zeroshot
        if zeroshot and not self.stopping and (last or at.epochs_done % zeroshot.frequency == 0):
            facts = self.evaluate(at)
            self.recorder.event(EventKind.EVALUATED, at, epochs_done=at.epochs_done, **facts)
            self.progress.evaluated(facts, at)
        return begun

    def evaluate(self, at: Position) -> Mapping[str, Any]:
        self.recorder.beat(Phase.EVALUATING, at)
        self.parts.stacks.rest()
        self.parts.ranks.enter(Phase.EVALUATING)
        with self.progress.paused():
            return self.parts.evaluate()

    def save(self, at: Position) -> bool:
        """Not while the loss is not finite: in float16 that may be the beginning of the end. All ranks do alike."""
        self.asked = False  # also what was asked for before this save, and read with its step
        if self.last and not self.last.loss_is_finite:
            self.recorder.event(EventKind.NOTICE, at, text="the loss is not finite: no checkpoint is written")
            return False
        self.recorder.beat(Phase.CHECKPOINTING, at)
        with self.progress.paused():
            self.parts.keeper.save(at, self.last.loss if self.last else None)
        return True

    def finish(self, at: Position) -> str | None:
        self.recorder.beat(Phase.CHECKPOINTING, at)
        return self.parts.keeper.finish()

    def stopped(self, at: Position, begun: bool) -> Outcome:
        facts = {"signal": self.stopping, "checkpoint": self.finish(at) if begun else None}
        return Outcome(ExitCode.STOPPED, EventKind.STOPPED, at, facts)

    def count_samples(self, measured: Measured, at: Position) -> Outcome | None:
        """All ranks see the same sums, so all give up at the same step."""
        self.bad += measured.bad
        self.seen += measured.seen
        limit = self.spec.data.max_bad_fraction
        if self.bad <= MIN_BAD_SAMPLES or self.bad <= limit * self.seen:
            return None
        self.report_bad_samples(at)
        error = f"{self.bad:.0f} of {self.seen:.0f} samples cannot be used, more than data.max_bad_fraction {limit:g}"
        return Outcome(ExitCode.REFUSED, EventKind.CRASHED, at, {"error": error})

    def report_bad_samples(self, at: Position) -> None:
        if not self.bad:
            return
        shards: Counter[str] = Counter()
        for counts in self.parts.ranks.gather(dict(self.bad_shards)):
            shards.update(counts)
        self.recorder.event(EventKind.DATA, at, bad=shards.total(), seen=int(self.seen), shards=dict(shards))


def _step(measured: Measured, at: Position) -> Step:
    return Step(
        at=at,
        losses=tuple(measured.losses),
        finite=tuple(map(bool, measured.finite)),
        grad_norm=measured.grad_norm,
        scale=measured.scale or None,
        logit_scale=measured.logit_scale,
        patch_rms=measured.patch_rms or None,
        own_seconds=tuple(measured.own_seconds),
    )


def _diverged(divergence: Divergence) -> Outcome:
    """The event stands where the first bad step was, not where it was understood."""
    onset = divergence.onset
    facts = {
        "step_in_epoch": onset.at.step_in_epoch,
        "loss": onset.loss,
        "grad_norm": onset.grad_norm,
        "scale": onset.scale,
        "ranks": onset.bad_ranks,
        "cause": divergence.cause,
    }
    return Outcome(ExitCode.DIVERGED, EventKind.DIVERGED, onset.at, facts)
