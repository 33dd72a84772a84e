"""What a transaction does to rows. Every function works inside the session of its caller and commits nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, func, select

from clipctl.domain import (
    Accepted,
    CheckpointRecord,
    CheckpointState,
    Cursor,
    JobState,
    JournalFacts,
    Rejected,
    Unknown,
)
from clipctl.errors import NotFound, Refused
from clipctl.journal import landmarks
from clipctl.run_state import RunFacts, run_state
from clipctl.store.records import Answer, Intent
from clipctl.store.tables import AttemptRow, CheckpointRow, EventRow, JobRow, RunRow, StandbyRow
from trainer import contract
from trainer.contract import Event

ANSWERS: Mapping[type, Answer] = {Accepted: Answer.ACCEPTED, Rejected: Answer.REJECTED, Unknown: Answer.UNKNOWN}


def to_json(value: Mapping[str, Any]) -> str:
    return json.dumps(contract.to_jsonable(value), allow_nan=False)


def existing_run(session: Session, name: str) -> RunRow:
    row = session.get(RunRow, name)
    if row is None:
        raise NotFound(f"there is no run {name!r}", hint="clipctl status --all")
    return row


def existing_attempt(session: Session, run: str, number: int) -> AttemptRow:
    row = session.get(AttemptRow, (run, number))
    if row is None:
        raise NotFound(f"run '{run}' has no attempt {number}", hint=f"clipctl show {run}")
    return row


def existing_job(session: Session, nonce: str) -> tuple[JobRow, RunRow]:
    row = session.get(JobRow, nonce)
    if row is None:
        raise NotFound(f"there is no job {nonce}", hint="clipctl status --all")
    return row, existing_run(session, row.run)


def live_job(session: Session, run: str) -> JobRow | None:
    return session.exec(select(JobRow).where(JobRow.run == run, col(JobRow.ended_at).is_(None))).first()


def next_number(session: Session, run: RunRow) -> int:
    """Of an attempt. One that stood by and was removed has used its own up: its folder is there."""
    attempts = select(func.max(AttemptRow.number)).where(AttemptRow.run == run.name)
    standbys = select(func.max(StandbyRow.attempt)).where(StandbyRow.run == run.name)
    return max(session.exec(attempts).one() or 0, session.exec(standbys).one() or 0) + 1


def open_standby(session: Session, run: str) -> StandbyRow | None:
    return session.exec(select(StandbyRow).where(StandbyRow.run == run, col(StandbyRow.ended_at).is_(None))).first()


def add_attempt(session: Session, run: RunRow, intent: Intent, number: int) -> JobRow:
    """An attempt with its one job. Refused, by the unique index, if another job may be alive, or if one stands by."""
    name = run.name  # not to be had after a failed flush
    if open_standby(session, name) is not None:
        raise Refused(
            f"a job of run '{name}' stands by in the queue and may start: a second one is never started",
            hint=f"clipctl cancel {name}, or clipctl status {name}",
        )
    attempt = AttemptRow(
        run=run.name,
        number=number,
        parent=None if intent.parent is None else contract.dumps(intent.parent),
        settings_digest=intent.settings_digest,
        train=to_json(intent.train),
        patch=to_json(intent.patch),
        ranks=intent.ranks,
        created_at=intent.time,
    )
    session.add(attempt)
    session.flush()
    job = JobRow(nonce=intent.nonce, run=run.name, attempt=number, submitted_at=intent.time, state=JobState.UNKNOWN)
    session.add(job)
    try:
        session.flush()
    except IntegrityError as error:
        if "jobs.run" not in str(error.orig):
            raise
        raise Refused(
            f"a job of run '{name}' may be alive: a second one is never started",
            hint=f"clipctl status {name}, or clipctl cancel {name}",
        ) from error
    return job


def add_events(session: Session, attempt: AttemptRow, facts: JournalFacts, cursor: Cursor) -> None:
    """Events above the attempt's own cursor, which never goes back: two readers may bring the same ones."""
    fresh = [event for event in facts.events if event.seq > attempt.seq]
    if fresh:
        lines = [
            {"run": attempt.run, "attempt": attempt.number, "seq": event.seq, "kind": event.kind,
             "line": contract.dumps(event)}
            for event in fresh
        ]  # fmt: skip
        session.connection().execute(insert(EventRow), lines)
        _mark(attempt, fresh)
    if cursor.seq >= attempt.seq:
        attempt.offset, attempt.inode, attempt.seq = cursor.offset, cursor.inode, cursor.seq


def _mark(attempt: AttemptRow, events: list[Event]) -> None:
    found = landmarks(events)
    if found.started is not None:
        attempt.started, attempt.diverged, attempt.final = found.started.seq, None, None
    if found.progress is not None:
        attempt.progress = found.progress.seq
    if found.checkpoint is not None:
        attempt.checkpoint = found.checkpoint.seq
    if found.diverged is not None and attempt.diverged is None:
        attempt.diverged = found.diverged.seq
    if found.final is not None:
        attempt.final = found.final.seq
    attempt.samples_seen = max(attempt.samples_seen, *(event.samples_seen for event in events))


def list_checkpoints(session: Session, attempt: AttemptRow, found: tuple[CheckpointRecord, ...]) -> None:
    """Makes the attempt's rows say what its folder says. What was verified stays so while size and manifest do."""
    here = {record.path: record for record in found}
    of_attempt = select(CheckpointRow).where(CheckpointRow.run == attempt.run, CheckpointRow.attempt == attempt.number)
    for row in session.exec(of_attempt):
        record = here.pop(row.path, None)
        if record is None:
            row.state = CheckpointState.SUPERSEDED
        elif record.state is CheckpointState.DAMAGED or row.manifest != contract.dumps(record.manifest):
            row.manifest, row.state = contract.dumps(record.manifest), record.state
        elif row.state == CheckpointState.SUPERSEDED:
            row.state = record.state
    for record in here.values():
        session.add(
            CheckpointRow(
                run=attempt.run,
                path=record.path,
                attempt=attempt.number,
                manifest=contract.dumps(record.manifest),
                state=record.state,
                samples_seen=record.manifest.samples_seen,
            )
        )


def restate(session: Session, run: RunRow) -> None:
    """Stores the run's state as it follows from the rows."""
    session.flush()
    newest = select(JobRow).where(JobRow.run == run.name)
    job = session.exec(newest.order_by(col(JobRow.attempt).desc(), col(JobRow.submitted_at).desc())).first()
    assert job is not None  # a run comes into being with one
    attempt = existing_attempt(session, run.name, job.attempt)
    final = session.get(EventRow, (run.name, attempt.number, attempt.final)) if attempt.final else None
    standby = open_standby(session, run.name)
    run.state = run_state(
        RunFacts(
            job=JobState(job.state),
            ended=job.ended_at is not None,
            submitted=job.answer == Answer.ACCEPTED,
            missing=job.missing_since is not None,
            alive=attempt.seq > 0,
            final=None if final is None else final.kind,
            held=run.hold_reason is not None,
            cancelled=run.cancelled_at is not None,
            succeeded=standby is not None and standby.withdrawn_at is None,
        )
    )
    session.flush()
