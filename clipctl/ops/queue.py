"""One question to each scheduler of whatever may live, for commands that only look. Nothing heavy is imported."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from clipctl.backends.by_name import backend_for
from clipctl.domain import JobIdentity, Limits, QueueSnapshot, Unobservable
from clipctl.ops import read

PATIENCE = 5.0  # seconds that a person waits for a scheduler, whatever the cluster's own patience is


def ask(home: Path) -> Mapping[str, QueueSnapshot | Unobservable]:
    """By cluster; only those with jobs that may live are asked, once each."""
    asked: dict[tuple[str, str], list[JobIdentity]] = defaultdict(list)
    patience: dict[str, Limits] = {}
    waiting = [(run, standby.identity) for run, standby in read.standbys(home)]
    for run, identity in [*((run, job.identity) for run, job in read.jobs_live(home)), *waiting]:
        asked[run.cluster, run.scheduler].append(identity)
        patience[run.cluster] = replace(run.limits, query_timeout=min(PATIENCE, run.limits.query_timeout))
    return {
        cluster: backend_for(scheduler, patience[cluster]).poll(jobs) for (cluster, scheduler), jobs in asked.items()
    }


class Pulse:
    """Whether a job may live, for who waits for its end: its scheduler is asked as seldom as its cluster wants."""

    def __init__(self, home: Path, nonce: str) -> None:
        self._home, self._nonce = home, nonce
        self._alive, self._due = True, 0.0

    def may_live(self) -> bool:
        """A scheduler lists the job as alive, or one that could know of it does not answer."""
        if time.monotonic() >= self._due:
            self._alive = any(_may_live(answer, self._nonce) for answer in ask(self._home).values())
            limits = (run.limits for run, job in read.jobs_live(self._home) if job.identity.nonce == self._nonce)
            self._due = time.monotonic() + max((each.poll_every for each in limits), default=0.0)
        return self._alive


def _may_live(answer: QueueSnapshot | Unobservable, nonce: str) -> bool:
    if isinstance(answer, Unobservable):
        return True
    report = answer.jobs.get(nonce)
    return report is not None and not report.over
