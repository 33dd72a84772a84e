"""What a run's steps came to, as numbers in the order of samples seen, across its attempts. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
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
    patch_rms: float | None = None  # the highest of these steps: trainer.patch_rms
    pace: float | None = None  # samples a second; None: not comparable with the newest one's
    waiting: float | None = None  # part of the time for which it waited for data
    slowest: int | None = None  # the rank that all others waited for
    behind: float | None = None  # part of the time for which half of them waited for it
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
    lines: Iterable[Mapping[str, Any]],
    attempt: int,
    settings: Settings,
    *,
    newest: Settings | None = None,
    sparse: bool = False,
) -> Iterator[Point]:
    """From events as flat mappings, in order; what is none of ours is left out.

    `newest`: the settings of the attempt whose pace is in question; None: nobody's is.
    """
    begin = -math.inf
    paced = newest is not None and (settings.batch, settings.precision) == (newest.batch, newest.precision)
    for line in lines:
        if line.get("kind") == EventKind.STARTED:
            begin = _number(line, "step") or 0.0
        elif line.get("kind") == EventKind.PROGRESS:
            with suppress(_NoPoint):
                yield _point(line, attempt, settings.batch, begin, paced, sparse)


def flat(event: Event) -> dict[str, Any]:
    """As its line reads."""
    own = {"seq": event.seq, "kind": event.kind, "epoch": event.epoch, "step": event.step}
    return {**event.facts, **own, "samples_seen": event.samples_seen}


class _NoPoint(Exception):
    """Another version's event, or a torn one."""


def _point(line: Mapping[str, Any], attempt: int, batch: int, begin: float, paced: bool, sparse: bool) -> Point:
    """In few steps: a look reads a hundred thousand of them."""
    seconds, waiting, step = _number(line, "seconds"), _number(line, "data_seconds"), _whole(line, "step")
    loss, slowest, median = (_number(line, name) for name in ("loss", "slowest_seconds", "median_seconds"))
    if loss is None:
        raise _NoPoint
    return Point(
        attempt=attempt,
        seq=_whole(line, "seq"),
        epoch=_whole(line, "epoch"),
        step=step,
        step_in_epoch=_whole(line, "step_in_epoch"),
        steps_per_epoch=_whole(line, "steps_per_epoch"),
        samples_seen=_whole(line, "samples_seen"),
        batch=batch,
        since_start=step - begin,
        loss=loss,
        grad_norm=_number(line, "grad_norm_max"),
        scale=_number(line, "scale"),
        patch_rms=_number(line, "patch_rms_max"),
        pace=_number(line, "samples_per_second") if paced else None,
        waiting=waiting / seconds if seconds and waiting is not None else None,
        slowest=None if median is None else _whole(line, "slowest_rank"),
        behind=(slowest - median) / seconds if seconds and slowest is not None and median is not None else None,
        sparse=sparse,
    )


def _whole(line: Mapping[str, Any], name: str) -> int:
    value = line.get(name)
    if type(value) is not int:
        raise _NoPoint
    return value


def _number(line: Mapping[str, Any], name: str) -> float | None:
    """ "nan" and "inf" are numbers. None for what another version may have made of it."""
    value = line.get(name)
    if type(value) is float or value is None:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
