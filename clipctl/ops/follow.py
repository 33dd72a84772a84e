"""Watches one job to its end, storing what is seen. Whoever stops watching changes nothing for the job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from clipctl import journal
from clipctl.domain import Cursor, Limits
from clipctl.journal import LocalFiles
from clipctl.layout import RunFolder
from clipctl.ops.clock import Clock
from clipctl.ops.observe import Observation, observe
from clipctl.store import JobRecord
from trainer.contract import Event, EventKind

if TYPE_CHECKING:
    from clipctl.backends import Backend
    from clipctl.store.writer import Store

INTERVAL = 0.5  # seconds between two looks at what the ranks wrote


def follow(nonce: str, *, backend: Backend, limits: Limits, store: Store, clock: Clock) -> Iterator[Observation]:
    """The newest look, again and again, the last one when the job is over; the scheduler is asked less often."""
    due = clock.now()
    while True:
        if clock.now() >= due:
            (seen,) = observe([store.job(nonce)], backend=backend, limits=limits, store=store, clock=clock)
            due = clock.now() + limits.poll_every
        yield seen
        if seen.over:
            return
        clock.sleep(INTERVAL)


def last_evaluation(job: JobRecord) -> Event | None:
    """The newest one that gave a number."""
    newest = None
    for facts, _ in journal.read_all(LocalFiles(), RunFolder(job.folder).attempt(job.identity.attempt), Cursor()):
        for event in facts.events:
            if event.kind == EventKind.EVALUATED and "top1" in event.facts:
                newest = event
    return newest
