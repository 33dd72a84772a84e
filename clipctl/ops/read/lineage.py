"""The tree of a run's attempts: from which checkpoint each one started, why, and what was changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from clipctl.domain import AttemptRecord
from clipctl.ops.read.look import Look
from clipctl.ops.read.runs import job_view
from clipctl.ops.read.shapes import AttemptView, Change, RunView
from clipctl.store import views
from clipctl.store.ledger import EntryKind
from clipctl.store.records import DecisionRecord, JobRecord
from trainer.contract import Event


def lineage(connection: sqlite3.Connection, view: RunView, found: Look) -> tuple[AttemptView, ...]:
    """As stored, but for the newest attempt: that one is as it was `found` just now."""
    run = view.name
    attempts = {attempt.number: attempt for attempt in views.attempts(connection, run)}
    origins = {record.path: record.manifest.attempt for record in views.checkpoints(connection, run)}
    causes = {entry.attempt: entry for entry in views.decisions(connection, run) if entry.kind == EntryKind.INTENT}
    jobs = views.jobs(connection, run)
    stored = tuple(
        _attempt_view(
            attempt,
            attempts.get(origins.get(attempt.parent_path or "", 0)),
            causes.get(attempt.number),
            tuple(job for job in jobs if job.identity.attempt == attempt.number),
        )
        for attempt in attempts.values()
    )
    return (*stored[:-1], _moved_on(stored[-1], view, found))


def _moved_on(newest: AttemptView, view: RunView, found: Look) -> AttemptView:
    started, final = found.landmarks.started, found.landmarks.final
    return replace(
        newest,
        samples_seen=max(newest.samples_seen, view.progress.samples_seen),
        live=newest.live and not found.over,
        incident=found.incident or newest.incident,
        final=final.kind if final else newest.final,
        jobs=(*newest.jobs[:-1], view.job) if view.job else newest.jobs,
        versions=_mapping(started, "versions"),
        hosts=tuple(str(host) for host in _list(started, "hosts")),
    )


def _attempt_view(
    attempt: AttemptRecord, parent: AttemptRecord | None, cause: DecisionRecord | None, jobs: tuple[JobRecord, ...]
) -> AttemptView:
    landmarks = jobs[-1].landmarks if jobs else None
    started = landmarks.started if landmarks else None
    final = landmarks.final if landmarks else None
    return AttemptView(
        number=attempt.number,
        parent_attempt=parent.number if parent else None,
        parent_path=attempt.parent_path,
        created_at=attempt.created_at,
        actor=cause.actor if cause else "",
        cause=cause.basis if cause else "",
        changes=tuple(changes(parent.train, attempt.train)) if parent else (),
        precision=str(attempt.train.get("precision", "")),
        batch_size=int(attempt.train.get("batch_size", 0)),
        accum_freq=int(attempt.train.get("accum_freq", 1)),
        ranks=attempt.ranks,
        samples_seen=attempt.samples_seen,
        live=attempt.live,
        incident=attempt.incident,
        final=final.kind if final else None,
        jobs=tuple(job_view(job) for job in jobs),
        versions=_mapping(started, "versions"),
        hosts=tuple(str(host) for host in _list(started, "hosts")),
    )


def changes(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[Change]:
    """Values that differ, by dotted path; sections are gone into, lists are compared whole."""
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from changes(old, new, f"{prefix}{key}.")
        elif old != new:
            yield Change(path=f"{prefix}{key}", before=old, after=new)


def _mapping(event: Event | None, name: str) -> Mapping[str, Any]:
    value = event.facts.get(name) if event else None
    return value if isinstance(value, Mapping) else {}


def _list(event: Event | None, name: str) -> list[Any]:
    value = event.facts.get(name) if event else None
    return value if isinstance(value, list) else []
