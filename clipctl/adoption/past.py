"""A run's past as events: what its log tells, its evaluations in full, and the checkpoints that are there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trainer.contract import CheckpointManifest, Event, EventKind, TrainSpec, to_jsonable
from trainer.open_clip_log import EpochStarted, Evaluated, Line, Option, Progress, Raised, Resumed, Started
from trainer.schedule import Geometry

TOP1, TOP5 = "imagenet-zeroshot-val-top1", "imagenet-zeroshot-val-top5"


@dataclass(frozen=True)
class _Draft:
    """An event without its number."""

    kind: EventKind
    time: float
    epoch: int  # in progress, from 1
    step: int
    samples_seen: int
    facts: Mapping[str, Any]

    @property
    def epochs_done(self) -> int | None:
        """Up to where it stands in the run's epochs; None: it says nothing about that."""
        if self.kind is EventKind.PROGRESS:
            return self.epoch
        return self.epoch - 1 if self.kind in (EventKind.EVALUATED, EventKind.CHECKPOINT) else None


def events_of(
    lines: Iterable[Line],
    train: TrainSpec,
    ranks: int,
    *,
    checkpoints: Sequence[CheckpointManifest],
    evaluations: Sequence[Mapping[str, Any]],
    source: str,
    time: float,
) -> tuple[Event, ...]:
    """In the order of the log; a checkpoint comes after the last line about its epoch.

    `evaluations`: the lines of results.jsonl, more exact than the log's, and used where they are as many. `time`: of
    what stands before the first time that the log tells.
    """
    told = _Told(train, ranks, time)
    drafts = [draft for line in lines for draft in told.drafts(line)] or [told.started(1)]
    drafts = _in_full(drafts, evaluations)
    for manifest in sorted(checkpoints, key=lambda manifest: manifest.epochs_done):
        drafts.insert(_place(drafts, manifest.epochs_done), _saved(manifest))
    first = drafts[0]
    text = f"taken over from {source}, which open_clip_train wrote"
    notice = replace(first, kind=EventKind.NOTICE, facts={"text": text})
    drafts = [first, notice, *drafts[1:], *_end(drafts, told, checkpoints, train)]
    return tuple(
        Event(
            seq=number,
            time=draft.time,
            kind=draft.kind,
            epoch=draft.epoch,
            step=draft.step,
            samples_seen=draft.samples_seen,
            facts=draft.facts,
        )
        for number, draft in enumerate(drafts, 1)
    )


# --- the log ------------------------------------------------------------------------------------------


@dataclass
class _Told:
    """What was read so far of the process that is in the log just now: each start may have had other options."""

    train: TrainSpec
    ranks: int
    time: float
    options: dict[str, str] = field(default_factory=dict)
    begun: bool = False  # its `started` is written
    epochs_done: int = 0  # that it resumed from
    steps: int = 0  # of the epoch in progress, as of its newest line
    epoch: int = 0
    raised: str | None = None

    def drafts(self, line: Line) -> Iterator[_Draft]:
        """Of one line: none, one, or two with the start."""
        if line.time is not None:
            self.time = line.time.timestamp()
        match line.fact:
            case _ if line.rank:  # another rank's
                return
            case Started():
                self.options, self.begun, self.epochs_done, self.raised, self.epoch = {}, False, 0, None, 0
            case Option(name=name, value=value):
                self.options[name] = value
            case Resumed(epochs_done=epochs):
                self.epochs_done = epochs
            case EpochStarted(epoch=epoch):
                yield from self._start(epoch)
            case Progress(epoch=epoch) as seen:
                yield from self._start(epoch)
                yield self._progress(seen)
            case Evaluated(epochs_done=epochs, metrics=metrics):
                yield self._evaluated(epochs, metrics)
            case Raised(text=text):
                self.raised = text

    def _start(self, epoch: int) -> Iterator[_Draft]:
        if not self.begun:
            self.begun = True
            yield self.started(epoch)

    def started(self, epoch: int) -> _Draft:
        geometry, train = self._geometry(), self.train
        facts = {
            "ranks": geometry.ranks,
            "batch_size": self._option("batch_size", train.batch_size),
            "accum_freq": self._option("accum_freq", train.accum_freq),
            "workers": geometry.workers,
            "engine": "open_clip_train",
            "precision": self.options.get("precision", train.precision),
            "steps_per_epoch": geometry.steps_per_epoch,
            "step_in_epoch": 0,
            "epochs": self._option("epochs", train.epochs),
            "parent": self.options.get("resume") if self.epochs_done else None,
        }
        return self._at(EventKind.STARTED, epoch, 0, facts)

    def _progress(self, seen: Progress) -> _Draft:
        geometry = self._geometry()
        steps = max(1, round(seen.samples / geometry.global_batch))
        since = steps - (self.steps if seen.epoch == self.epoch else 0)
        self.epoch, self.steps = seen.epoch, steps
        facts = {
            "loss": seen.loss,
            "step_in_epoch": steps,
            "steps_per_epoch": geometry.steps_per_epoch,
            "lr": seen.lr,
            "logit_scale": seen.logit_scale,
            "samples_per_second": seen.samples_per_second,
            "data_seconds": round(seen.data_time * max(since, 1), 6),
            "seconds": round(seen.batch_time * max(since, 1), 6),
            "grad_norm": seen.grad_norm,
            "grad_norm_max": seen.grad_norm,
        }
        facts = {name: value for name, value in facts.items() if value is not None}
        return self._at(EventKind.PROGRESS, seen.epoch, steps, facts)

    def _evaluated(self, epochs_done: int, metrics: Mapping[str, float]) -> _Draft:
        facts = {"epochs_done": epochs_done} | _accuracies(metrics)
        return self._at(EventKind.EVALUATED, epochs_done + 1, 0, facts)

    def _at(self, kind: EventKind, epoch: int, steps: int, facts: Mapping[str, Any]) -> _Draft:
        geometry = self._geometry()
        done = epoch - 1
        return _Draft(
            kind=kind,
            time=self.time,
            epoch=epoch,
            step=done * geometry.steps_per_epoch + steps,
            samples_seen=done * geometry.samples_per_epoch + steps * geometry.global_batch,
            facts=facts,
        )

    def _geometry(self) -> Geometry:
        """By the options of this start, else by those of params.txt, which are the last start's."""
        train = self.train
        batch = self._option("batch_size", train.batch_size) * self._option("accum_freq", train.accum_freq)
        ranks, workers = self._option("world_size", self.ranks), self._option("workers", train.data.workers)
        return Geometry(train.data.train_num_samples, batch, ranks, workers)

    def _option(self, name: str, otherwise: int) -> int:
        """A number of which there are some, or none worth believing."""
        text = self.options.get(name, "")
        return int(text) if text.isdecimal() and int(text) else otherwise


def _accuracies(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Zero-shot by the names of our own events; everything else by open_clip's."""
    names = {TOP1: "top1", TOP5: "top5"}
    return {names.get(name, name): value for name, value in metrics.items() if name not in ("epoch", "epochs_done")}


def _in_full(drafts: list[_Draft], evaluations: Sequence[Mapping[str, Any]]) -> list[_Draft]:
    """The log has four decimals. A restart may have evaluated twice; results.jsonl then has both, too."""
    if sum(draft.kind is EventKind.EVALUATED for draft in drafts) != len(evaluations):
        return drafts
    full = iter(evaluations)
    return [
        replace(draft, facts={**draft.facts, **_accuracies(next(full))}) if draft.kind is EventKind.EVALUATED else draft
        for draft in drafts
    ]


def read_results(text: str) -> list[dict[str, Any]]:
    """results.jsonl; a torn line is left out."""
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


# --- checkpoints --------------------------------------------------------------------------------------


def _place(drafts: Sequence[_Draft], epochs_done: int) -> int:
    """Behind all that is told of its epoch; where nothing is, before what is told of later ones."""
    of_it = [index for index, draft in enumerate(drafts) if draft.epochs_done == epochs_done]
    if of_it:
        return of_it[-1] + 1
    later = (index for index, draft in enumerate(drafts) if (draft.epochs_done or 0) > epochs_done)
    return max(1, next(later, len(drafts)))  # never before the start


def _saved(manifest: CheckpointManifest) -> _Draft:
    return _Draft(
        kind=EventKind.CHECKPOINT,
        time=manifest.time,
        epoch=manifest.epochs_done + 1,
        step=manifest.step,
        samples_seen=manifest.samples_seen,
        facts={
            "path": f"checkpoints/{manifest.file}",
            "digest": manifest.digest,
            "epochs_done": manifest.epochs_done,
            "step_in_epoch": 0,
            "manifest": to_jsonable(manifest),
        },
    )


def losses(lines: Iterable[Line]) -> dict[int, float]:
    """By epoch: the last one that was logged."""
    return {line.fact.epoch: line.fact.loss for line in lines if isinstance(line.fact, Progress)}


# --- how it ended -------------------------------------------------------------------------------------


def _end(
    drafts: Sequence[_Draft], told: _Told, checkpoints: Sequence[CheckpointManifest], train: TrainSpec
) -> Iterator[_Draft]:
    """As far as the log tells: nothing stops open_clip_train at a loss that is not finite, so the last start's newest
    lines are looked at. One that was killed leaves no word."""
    onset = _onset(drafts)
    if onset is not None:
        facts = {
            "step_in_epoch": onset.facts["step_in_epoch"],
            "loss": onset.facts["loss"],
            "cause": "loss",
            "ranks": [],
        }
        yield replace(onset, kind=EventKind.DIVERGED, facts=facts)
    elif told.raised is not None:
        facts = {"error": told.raised, "step_in_epoch": told.steps}
        yield replace(drafts[-1], kind=EventKind.CRASHED, time=told.time, facts=facts)
    elif any(manifest.epochs_done >= train.epochs and manifest.finite for manifest in checkpoints):
        yield replace(drafts[-1], kind=EventKind.COMPLETED, time=max(told.time, drafts[-1].time), facts={})


def _onset(drafts: Sequence[_Draft]) -> _Draft | None:
    """The first of the losses at the log's end that are not finite; None: the newest one is."""
    onset = None
    for draft in reversed(drafts):
        if draft.kind is EventKind.STARTED:
            break
        if draft.kind is EventKind.PROGRESS:
            if math.isfinite(draft.facts["loss"]):
                break
            onset = draft
    return onset
