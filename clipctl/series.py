"""What a run's steps came to, as numbers in the order of samples seen, across its attempts. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.contract import Event, EventKind

TAIL = 128  # points that are looked at, however long a run is. L/14: five epochs
OF_SERIES = frozenset({EventKind.PROGRESS, EventKind.STARTED})


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One progress event: the steps since the one before."""

    attempt: int
    seq: int  # of the event
    epoch: int  # in progress, from 1
    step: int
    step_in_epoch: int
    steps_per_epoch: int
    samples_seen: int
    batch: int  # samples a step, all ranks
    since_start: float  # steps since its process started; inf: before what was read
    loss: float  # mean; nan where that of one step was
    grad_norm: float | None = None
    scale: float | None = None  # of the loss; None: not float16
    pace: float | None = None  # samples a second; None: not comparable with the newest one's
    waiting: float | None = None  # part of the time for which it waited for data
    sparse: bool = False  # between it and the next one there are others, which were not read


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What of an attempt's settings its numbers depend on."""

    batch: int
    warmup: int  # steps
    precision: str = ""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Oldest first. What was rolled back over is not in it."""

    points: tuple[Point, ...]
    warmup: int  # steps

    def __bool__(self) -> bool:
        return bool(self.points)


def points_of(
    lines: Iterable[Mapping[str, Any]], attempt: int, settings: Settings, newest: Settings, *, begin: float = -math.inf
) -> Iterator[Point]:
    """From events as flat mappings, in order; what is none of ours is left out. `begin`: step of an earlier start.

    `newest`: the settings of the attempt whose pace is in question.
    """
    comparable = (settings.batch, settings.precision) == (newest.batch, newest.precision)
    for line in lines:
        if line.get("kind") == EventKind.STARTED:
            begin = _number(line, "step") or 0.0
        elif line.get("kind") == EventKind.PROGRESS and (point := _point(line, attempt, settings.batch, begin)):
            yield point if comparable else _without_pace(point)


def flat(event: Event) -> dict[str, Any]:
    """As its line reads."""
    own = {"seq": event.seq, "kind": event.kind, "epoch": event.epoch, "step": event.step}
    return {**event.facts, **own, "samples_seen": event.samples_seen}


def _point(line: Mapping[str, Any], attempt: int, batch: int, begin: float) -> Point | None:
    numbers = [_number(line, name) for name in ("seq", "epoch", "step", "step_in_epoch", "steps_per_epoch")]
    seen, loss = _number(line, "samples_seen"), _number(line, "loss")
    whole = [int(number) for number in (*numbers, seen) if number is not None and math.isfinite(number)]
    if len(whole) < len(numbers) + 1 or loss is None:
        return None
    seq, epoch, step, step_in_epoch, steps_per_epoch, samples_seen = whole
    seconds, waiting = _number(line, "seconds"), _number(line, "data_seconds")
    return Point(
        attempt=attempt,
        seq=seq,
        epoch=epoch,
        step=step,
        step_in_epoch=step_in_epoch,
        steps_per_epoch=steps_per_epoch,
        samples_seen=samples_seen,
        batch=batch,
        since_start=step - begin,
        loss=loss,
        grad_norm=_number(line, "grad_norm_max"),
        scale=_number(line, "scale"),
        pace=_number(line, "samples_per_second"),
        waiting=waiting / seconds if seconds and waiting is not None else None,
    )


def _without_pace(point: Point) -> Point:
    values = {name: getattr(point, name) for name in Point.__slots__}
    return Point(**values | {"pace": None})


def _number(line: Mapping[str, Any], name: str) -> float | None:
    """ "nan" and "inf" are numbers. None for what another version, or a torn write, may have made of it."""
    value = line.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None
