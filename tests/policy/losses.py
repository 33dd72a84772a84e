"""Losses of runs like those that clipctl exists for, made up: one point for each progress event of 100 steps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from clipctl.domain import Evidence, JobReport, JobState, Series
from clipctl.series import TAIL, Point
from clipctl.store.progress import OLDER
from trainer.contract import Event, EventKind

BATCH = 79_872  # L/14: ln is 11.29
STEPS, EVERY = 2504, 100  # of an epoch, of a point
WARMUP = 10_000
RUNNING = JobReport(nonce="abc", scheduler_id="17", state=JobState.RUNNING, raw="RUNNING")

Curve = Callable[[int], float]  # from steps of the run to its loss


def places(first: int, last: int) -> Iterator[int]:
    """Steps of the run at which progress is told in epochs `first` to `last`: every hundredth, and at the border."""
    for epoch in range(first, last + 1):
        yield from ((epoch - 1) * STEPS + step for step in (*range(EVERY, STEPS, EVERY), STEPS))


def points(curve: Curve, first: int, last: int, *, attempt: int = 1, begin: float = -math.inf) -> tuple[Point, ...]:
    """`begin`: the step with which the attempt started, where that is to be seen."""
    return tuple(
        Point(
            attempt=attempt, seq=number, epoch=(step - 1) // STEPS + 1, step=step, step_in_epoch=(step - 1) % STEPS + 1,
            steps_per_epoch=STEPS, samples_seen=step * BATCH, batch=BATCH, since_start=step - begin,
            loss=curve(step), grad_norm=0.5, scale=32768.0, pace=27_000.0, waiting=0.01,
        )
        for number, step in enumerate(places(first, last), 1)
        if step > begin
    )  # fmt: skip


def at(epoch: int, step: int = 0) -> int:
    return (epoch - 1) * STEPS + step


def usual(step: int) -> float:
    """Down fast, then slowly: 1.5 at epoch 20, 1.1 at epoch 75."""
    return 0.8 + 10.5 / (1 + step / 4000)


def noisy(curve: Curve, spread: float, seed: int) -> Curve:
    drawn = random.Random(seed)
    return lambda step: curve(step) + drawn.gauss(0, spread)


def until(step: int, before: Curve, after: Curve) -> Curve:
    return lambda now: before(now) if now < step else after(now)


def evidence(
    series: Sequence[Point], *, attempt: int = 1, alive: bool = True, diverged: Event | None = None
) -> Evidence:
    job = RUNNING if alive else replace(RUNNING, state=JobState.TIMEOUT)
    return Evidence(
        attempt=attempt, time=1000.0, job=job, observed=True, submitted=True, diverged=diverged, final=diverged,
        series=Series(points=(*_sparse(series[:-TAIL]), *series[-TAIL:]), warmup=WARMUP),
    )  # fmt: skip


def _sparse(older: Sequence[Point]) -> tuple[Point, ...]:
    """As the store reads them."""
    gap = max(1, len(older) // OLDER)
    return tuple(replace(point, sparse=True, pace=None) for point in older[::-gap][::-1])


def not_a_number(step: int) -> Event:
    facts = {"step_in_epoch": (step - 1) % STEPS + 1, "loss": "nan", "cause": "loss", "ranks": [0, 1]}
    return Event(
        seq=9999, time=0.0, kind=EventKind.DIVERGED, epoch=(step - 1) // STEPS + 1, step=step,
        samples_seen=step * BATCH, facts=facts,
    )  # fmt: skip
