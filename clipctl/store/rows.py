"""What a transaction does to rows. Every function works inside the session of its caller and commits nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, literal_column
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, func, select

from clipctl.domain import CheckpointRecord, CheckpointState, Cursor, JobState, JournalFacts
from clipctl.errors import NotFound, Refused
from clipctl.journal import landmarks
from clipctl.pulse import Pulse
from clipctl.run_state import RunFacts, run_state
from clipctl.store.ledger import EntryKind
from clipctl.store.records import Answer, Steps
from clipctl.store.tables import (
    AttemptRow,
    CheckpointRow,
    DecisionRow,
    EvaluationRow,
    EventRow,
    JobRow,
    RunRow,
    StandbyRow,
)
from trainer import contract
from trainer.contract import CheckpointManifest, Event, EventKind

_GOOD = (CheckpointState.COMPLETE, CheckpointState.VERIFIED)


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


def next_attempt(session: Session, run: str) -> int:
    """One that stood by and was removed has used its number up: its folder is there."""
    attempts = select(func.max(AttemptRow.number)).where(AttemptRow.run == run)
    standbys = select(func.max(StandbyRow.attempt)).where(StandbyRow.run == run)
    return max(session.exec(attempts).one() or 0, session.exec(standbys).one() or 0) + 1


def existing_standby(session: Session, nonce: str) -> tuple[StandbyRow, RunRow]:
    row = session.get(StandbyRow, nonce)
    if row is None:
        raise NotFound(f"no job {nonce} ever stood by", hint="clipctl status --all")
    return row, existing_run(session, row.run)


def existing_evaluation(session: Session, nonce: str) -> tuple[EvaluationRow, RunRow]:
    row = session.get(EvaluationRow, nonce)
    if row is None:
        raise NotFound(f"there is no evaluation {nonce}", hint="clipctl status --all")
    return row, existing_run(session, row.run)


def open_standby(session: Session, run: str) -> StandbyRow | None:
    return session.exec(select(StandbyRow).where(StandbyRow.run == run, col(StandbyRow.ended_at).is_(None))).first()


def add_attempt(session: Session, attempt: AttemptRow, job: JobRow) -> None:
    """An attempt with its one job. Refused, by the unique index, if another job may be alive, or if one stands by."""
    name = attempt.run  # not to be had after a failed flush
    if open_standby(session, name) is not None:
        raise Refused(
            f"a job of run '{name}' stands by in the queue and may start: a second one is never started",
            hint=f"clipctl cancel {name}, or clipctl status {name}",
        )
    session.add(attempt)
    session.flush()
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


def add_standby(session: Session, standby: StandbyRow) -> None:
    """Refused, by the unique index, if one stands by already."""
    name = standby.run
    session.add(standby)
    try:
        session.flush()
    except IntegrityError as error:
        if "standbys.run" not in str(error.orig):
            raise
        raise Refused(f"a job of run '{name}' stands by already", hint=f"clipctl status {name}") from error


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
        _add_announced(session, attempt, fresh)
    if cursor.seq >= attempt.seq:
        attempt.offset, attempt.inode, attempt.seq = cursor.offset, cursor.inode, cursor.seq


def feel(connection: Connection, pulses: Mapping[tuple[str, int], Pulse]) -> None:
    lines = [(contract.dumps(pulse), run, number) for (run, number), pulse in pulses.items()]
    if lines:
        connection.exec_driver_sql("UPDATE attempts SET pulse = ? WHERE run = ? AND number = ?", lines)


def add_steps(connection: Connection, run: str, number: int, steps: Steps) -> None:
    """As `add_events`, at a hundredth of its cost. Nothing, where another reader has brought them meanwhile."""
    newest, cursor, samples = steps.events[-1].seq, steps.after, max(event.samples_seen for event in steps.events)
    moved = connection.exec_driver_sql(
        """UPDATE attempts SET "offset" = ?, inode = ?, seq = ?, progress = ?, samples_seen = max(samples_seen, ?)
           WHERE run = ? AND number = ? AND seq = ?""",
        (cursor.offset, cursor.inode, cursor.seq, newest, samples, run, number, steps.before),
    )
    if moved.rowcount:
        lines = [(run, number, event.seq, event.kind, contract.dumps(event)) for event in steps.events]
        connection.exec_driver_sql("INSERT INTO events (run, attempt, seq, kind, line) VALUES (?, ?, ?, ?, ?)", lines)


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


def _add_announced(session: Session, attempt: AttemptRow, events: list[Event]) -> None:
    """Checkpoints by their events: of a file that was pruned since, nothing else is left."""
    for event in events:
        if event.kind != EventKind.CHECKPOINT:
            continue
        try:
            manifest = contract.loads(CheckpointManifest, json.dumps(event.facts.get("manifest")))
        except ValueError:  # as another version says it
            continue
        path = f"attempts/{attempt.number}/{event.facts.get('path')}"
        row = session.get(CheckpointRow, (attempt.run, path))
        if row is None:
            record = CheckpointRecord(path=path, manifest=manifest, state=CheckpointState.COMPLETE)
            session.add(_checkpoint(attempt, path, manifest, _judged(session, attempt.run, record)))
        elif row.manifest != contract.dumps(manifest):  # a start that the site forced wrote it once more
            row.manifest, row.samples_seen = contract.dumps(manifest), manifest.samples_seen
            row.state = CheckpointState.COMPLETE


def list_checkpoints(session: Session, attempt: AttemptRow, found: tuple[CheckpointRecord, ...]) -> None:
    """Makes the attempt's rows say what its folder says, and of the files there what a look at their bytes said."""
    here = {record.path: record for record in found}
    of_attempt = select(CheckpointRow).where(CheckpointRow.run == attempt.run, CheckpointRow.attempt == attempt.number)
    for row in session.exec(of_attempt):
        record = here.pop(row.path, None)
        if record is None:
            row.state = CheckpointState.SUPERSEDED
        elif row.state not in _GOOD or record.state not in _GOOD or row.manifest != contract.dumps(record.manifest):
            row.manifest, row.samples_seen = contract.dumps(record.manifest), record.manifest.samples_seen
            row.state = _judged(session, attempt.run, record)
    for record in here.values():
        state = _judged(session, attempt.run, record)
        session.add(_checkpoint(attempt, record.path, record.manifest, state))


def _judged(session: Session, run: str, record: CheckpointRecord) -> CheckpointState:
    """What was said of these very bytes counts as long as the file has their size."""
    if record.state is CheckpointState.DAMAGED:
        return record.state
    checks = select(DecisionRow.facts).where(DecisionRow.run == run, DecisionRow.kind == EntryKind.CHECKED)
    for text in reversed(session.exec(checks.order_by(literal_column("rowid"))).all()):
        facts = json.loads(text)
        if (facts["path"], facts["digest"]) == (record.path, record.manifest.digest):
            return CheckpointState(facts["state"])
    return record.state


def _checkpoint(attempt: AttemptRow, path: str, manifest: CheckpointManifest, state: CheckpointState) -> CheckpointRow:
    return CheckpointRow(
        run=attempt.run,
        path=path,
        attempt=attempt.number,
        manifest=contract.dumps(manifest),
        state=state,
        samples_seen=manifest.samples_seen,
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
