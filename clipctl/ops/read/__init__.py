"""Everything that reading commands show. Nothing here writes, and nothing heavy is imported: no ORM, no pydantic.

The scheduler's answer is handed in, from one query or none: the store's word and the run folders' say the rest.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from clipctl import journal
from clipctl.domain import CheckpointState, QueueSnapshot, RunState, Unobservable
from clipctl.errors import NotFound
from clipctl.journal import Files, LocalFiles
from clipctl.layout import RunFolder
from clipctl.ops.read.lineage import lineage
from clipctl.ops.read.runs import checkpoint_view, judged, run_seen, run_view
from clipctl.ops.read.shapes import (
    AttemptView,
    Change,
    CheckpointsView,
    CheckpointView,
    JobView,
    Progress,
    RunView,
    ShowView,
    StandbyView,
    StatusView,
)
from clipctl.ops.read.watchdog import WatchdogView, watchdog
from clipctl.store import standing, views
from clipctl.store.records import JobRecord, RunRecord, StandbyRecord
from clipctl.store.ticks import late

__all__ = [
    "AttemptView",
    "Change",
    "CheckpointView",
    "CheckpointsView",
    "JobView",
    "Progress",
    "Queues",
    "RunView",
    "ShowView",
    "StandbyView",
    "StatusView",
    "WatchdogView",
    "checkpoints",
    "jobs_live",
    "resumable",
    "run_names",
    "run_status",
    "show",
    "standbys",
    "status",
    "watchdog",
]

LATEST = 20  # runs that `status` lists besides those that live or are held
PATIENCE = 3.0  # seconds, for all run folders of one command together
_MAY_RESUME = (RunState.STOPPED, RunState.UNKNOWN)
_WATCHED = (*_MAY_RESUME, RunState.QUEUED, RunState.RUNNING)
_LOCAL = LocalFiles()

Queues = Mapping[str, QueueSnapshot | Unobservable]  # by cluster: one poll's answer of each that was asked
_NOBODY_ASKED: Queues = {}


def status(
    home: Path,
    *,
    now: float,
    queues: Queues = _NOBODY_ASKED,
    everything: bool = False,
    files: Files = _LOCAL,
    patience: float = PATIENCE,
) -> StatusView:
    """Runs that live or are held and the newest few, or all."""
    reason = _silence(queues)
    with views.reading(home) as connection:
        if connection is None:
            return StatusView(time=now, total=0, scheduler=reason, runs=())
        shown = views.runs(connection, latest=None if everything else LATEST)
        runs = _run_views(connection, shown, queues, files, now, patience)
        unwatched = _unwatched(home, runs, now)
        total = views.count(connection)
        return StatusView(time=now, total=total, scheduler=reason, runs=runs, unwatched=unwatched)


def _run_views(
    connection: sqlite3.Connection, runs: Iterable[RunRecord], queues: Queues, files: Files, now: float, patience: float
) -> tuple[RunView, ...]:
    """`patience` is for all of them together."""
    until = time.monotonic() + patience
    return tuple(
        run_view(
            connection,
            run,
            queue=queues.get(run.cluster),
            files=files,
            now=now,
            patience=max(0.0, until - time.monotonic()),
        )
        for run in runs
    )


def _silence(queues: Queues) -> str:
    """Which schedulers did not answer, and why."""
    return "; ".join(f"{name}: {answer.reason}" for name, answer in queues.items() if isinstance(answer, Unobservable))


def run_status(
    home: Path,
    name: str,
    *,
    now: float,
    queues: Queues = _NOBODY_ASKED,
    files: Files = _LOCAL,
    patience: float = PATIENCE,
) -> StatusView:
    """The same of one run. NotFound: there is none of that name."""
    with views.reading(home) as connection:
        run = None if connection is None else views.run(connection, name)
        if connection is None or run is None:
            raise _no_such_run(name)
        queue = queues.get(run.cluster)
        view = run_view(connection, run, queue=queue, files=files, now=now, patience=patience)
        unwatched = _unwatched(home, (view,), now)
        total, reason = views.count(connection), _silence(queues)
        return StatusView(time=now, total=total, scheduler=reason, runs=(view,), unwatched=unwatched)


def _unwatched(home: Path, runs: Iterable[RunView], now: float) -> float | None:
    """Only where there was a watchdog once, and there is something for it to watch."""
    return late(home, now) if any(run.state in _WATCHED for run in runs) else None


def show(
    home: Path,
    name: str,
    *,
    now: float,
    queues: Queues = _NOBODY_ASKED,
    files: Files = _LOCAL,
    patience: float = PATIENCE,
) -> ShowView:
    """The spec as launched, and every attempt with its cause and changes."""
    with views.reading(home) as connection:
        run = None if connection is None else views.run(connection, name)
        if connection is None or run is None:
            raise _no_such_run(name)
        queue = queues.get(run.cluster)
        view, found = run_seen(connection, run, queue=queue, files=files, now=now, patience=patience)
        return ShowView(run=view, spec=views.settings(run), lineage=lineage(connection, view, found))


def checkpoints(home: Path, name: str, *, files: Files = _LOCAL) -> CheckpointsView:
    """What lies in the run's folder now, with what the store knows of it; what was pruned is listed as superseded."""
    with views.reading(home) as connection:
        run = None if connection is None else views.run(connection, name)
        if connection is None or run is None:
            raise _no_such_run(name)
        known = {record.path: record for record in views.checkpoints(connection, name)}
    folder = RunFolder(run.folder)
    here = [
        record for number in range(1, run.attempts + 1) for record in journal.checkpoints(files, folder.attempt(number))
    ]
    known |= {record.path: judged(known.get(record.path), record) for record in here}
    listed = {record.path for record in here}
    gone = CheckpointState.SUPERSEDED
    records = (record if path in listed else replace(record, state=gone) for path, record in known.items())
    ordered = sorted(records, key=lambda record: (record.manifest.attempt, record.manifest.samples_seen))
    return CheckpointsView(run=name, folder=str(run.folder), checkpoints=tuple(map(checkpoint_view, ordered)))


def resumable(home: Path, *, now: float, queues: Queues = _NOBODY_ASKED, files: Files = _LOCAL) -> tuple[RunView, ...]:
    """Runs that a resume could go on with, newest first."""
    with views.reading(home) as connection:
        if connection is None:
            return ()
        runs = [run for run in views.runs(connection) if run.state in _WATCHED]
        found = _run_views(connection, runs, queues, files, now, PATIENCE)
    return tuple(run for run in found if run.state in _MAY_RESUME)


def run_names(home: Path) -> tuple[str, ...]:
    """For completion: newest first."""
    with views.reading(home) as connection:
        return () if connection is None else views.run_names(connection)


def jobs_live(home: Path) -> tuple[tuple[RunRecord, JobRecord], ...]:
    """What there is to ask schedulers for, with each job's run (and so its cluster)."""
    with views.reading(home) as connection:
        if connection is None:
            return ()
        jobs = views.jobs_live(connection)
        runs = {name: views.run(connection, name) for name in {job.identity.run for job in jobs}}
        return tuple((run, job) for job in jobs if (run := runs[job.identity.run]) is not None)


def standbys(home: Path) -> tuple[tuple[RunRecord, StandbyRecord], ...]:
    """The same for jobs that stand by."""
    with views.reading(home) as connection:
        if connection is None:
            return ()
        found = [(views.run(connection, each.identity.run), each) for each in standing.everywhere(connection)]
        return tuple((run, standby) for run, standby in found if run is not None)


def _no_such_run(name: str) -> NotFound:
    return NotFound(f"there is no run {name!r}", hint="clipctl status --all")
