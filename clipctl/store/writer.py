"""Every write to the store: short transactions that hold the database's only write lock from their first statement.

Where something is decided, its line goes to the run's decisions.jsonl inside the transaction, as the last thing before
the commit: a line may be left without its row (nothing was submitted yet), never a row without its line.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool
from sqlmodel import Session, create_engine

from clipctl.domain import (
    Accepted,
    CheckpointRecord,
    CheckpointState,
    Cursor,
    History,
    Incident,
    JobIdentity,
    JobReport,
    JobState,
    JournalFacts,
    Pulse,
    Rejected,
    RunState,
    Series,
    Unknown,
)
from clipctl.errors import NotFound, Refused
from clipctl.store import entries, home as homes, migrate, progress, rows, views
from clipctl.store.entries import Entry
from clipctl.store.ledger import EntryKind
from clipctl.store.records import Answer, DecisionRecord, Intent, JobRecord, NewRun, RunRecord
from clipctl.store.standbys import Standbys
from clipctl.store.tables import CheckpointRow, IncidentRow, RunRow
from trainer import contract


class Store:
    """All writes, and the reads that a writer needs. Open it with `clipctl.store.open_store`."""

    def __init__(self, home: Path) -> None:
        self.path = homes.prepare(home)
        with homes.explained(self.path):
            self._connection = _connect(self.path)
        self._engine = create_engine("sqlite://", creator=lambda: self._connection, poolclass=StaticPool)
        self.standbys = Standbys(self._writing, self._reading)
        event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._engine.dispose()
        self._connection.close()

    # --- intents --------------------------------------------------------------------------------

    def create(self, new: NewRun, intent: Intent) -> JobIdentity:
        """A run, its first attempt and the intent of its job; `new.folder` exists. Refused: the name is taken."""
        with self._writing() as session:
            if session.get(RunRow, new.name) is not None:
                raise Refused(f"a run named '{new.name}' exists", hint=f"clipctl resume {new.name}, or another --name")
            run = RunRow(
                name=new.name,
                run_id=new.run_id,
                folder=str(new.folder),
                cluster=new.cluster,
                scheduler=new.scheduler,
                spec=new.spec,
                epochs=new.epochs,
                limits=contract.dumps(new.limits),
                created_at=intent.time,
                state=RunState.QUEUED,
            )
            session.add(run)
            session.flush()
            return self._intend(session, run, intent)

    def intend(self, run: str, intent: Intent) -> JobIdentity:
        """The next attempt of a run and the intent of its job. Refused: a job of the run may be alive.

        Whoever starts a cancelled run again has changed their mind: it is cancelled no longer. A hold stays.
        """
        with self._writing() as session:
            row = rows.existing_run(session, run)
            row.cancelled_at = None
            row.epochs = int(intent.train["epochs"])  # a run may be given more of them
            return self._intend(session, row, intent)

    def _intend(self, session: Session, run: RunRow, intent: Intent) -> JobIdentity:
        number = rows.next_number(session, run)
        rows.add_attempt(session, run, intent, number)
        entries.record(session, run, entries.intended(EntryKind.INTENT, run, intent, number))
        return JobIdentity(
            run=run.name, run_id=run.run_id, attempt=number, nonce=intent.nonce, submitted_at=intent.time
        )

    # --- what became of a job -------------------------------------------------------------------

    def answered(self, nonce: str, answer: Accepted | Rejected | Unknown, *, time: float) -> None:
        """The scheduler's answer to the submission. Rejected: no job exists, and another may be intended."""
        with self._writing() as session:
            job, run = rows.existing_job(session, nonce)
            job.answer = rows.ANSWERS[type(answer)]
            said = answer.scheduler_id if isinstance(answer, Accepted) else answer.reason
            if isinstance(answer, Accepted):
                job.scheduler_id = said
            else:
                job.raw = said
            if isinstance(answer, Rejected):
                job.ended_at = time
            facts = {"nonce": nonce, "answer": job.answer}
            entries.record(session, run, entries.told(EntryKind.ANSWER, "scheduler", said, time, job.attempt, facts))

    def observed(self, nonce: str, report: JobReport | None, *, time: float) -> None:
        """What a scheduler that answered said of the job; None: it did not list it."""
        with self._writing() as session:
            job, run = rows.existing_job(session, nonce)
            if report is None:
                job.missing_since = time if job.missing_since is None else job.missing_since
            else:
                job.missing_since, job.answer = None, Answer.ACCEPTED
                job.state, job.raw, job.scheduler_id = report.state, report.raw, report.scheduler_id
            rows.restate(session, run)

    def ended(self, nonce: str, *, state: JobState, basis: str, time: float, exit_code: int | None = None) -> None:
        """The job is over for certain: only now may another be intended. Nothing happens if that was known."""
        with self._writing() as session:
            job, run = rows.existing_job(session, nonce)
            if job.ended_at is not None:
                return
            job.ended_at, job.state, job.exit_code = time, state, exit_code
            facts = {"nonce": nonce, "state": state, "exit_code": exit_code}
            entries.record(session, run, entries.told(EntryKind.END, "clipctl", basis, time, job.attempt, facts))

    def ingest(
        self,
        run: str,
        attempt: int,
        facts: JournalFacts,
        cursor: Cursor,
        *,
        time: float,
        checkpoints: tuple[CheckpointRecord, ...] | None = None,
        incident: Incident | None = None,
    ) -> None:
        """What `journal.read` gave, once or often, from however many processes: each event counts once.

        `checkpoints` is all that `journal.checkpoints` lists now: others of this attempt were pruned. An incident is
        kept once a kind.
        """
        with self._writing() as session:
            row = rows.existing_run(session, run)
            attempt_row = rows.existing_attempt(session, run, attempt)
            rows.add_events(session, attempt_row, facts, cursor)
            if checkpoints is not None:
                rows.list_checkpoints(session, attempt_row, checkpoints)
            if incident is None or session.get(IncidentRow, (run, attempt, incident.kind)) is not None:
                rows.restate(session, row)
                return
            text = contract.dumps(incident)
            session.add(IncidentRow(run=run, attempt=attempt, kind=incident.kind, time=time, facts=text))
            said = {"incident": incident}
            entry = entries.told(EntryKind.INCIDENT, "clipctl", incident.detail, time, attempt, said)
            entries.record(session, row, entry)

    def feel(self, pulses: Mapping[tuple[str, int], Pulse]) -> None:
        """By run and attempt: of all that one look saw, in one transaction."""
        with self._writing() as session:
            for (run, number), pulse in pulses.items():
                rows.existing_attempt(session, run, number).pulse = contract.dumps(pulse)

    def checked(self, run: str, path: str, state: CheckpointState) -> None:
        """What a look at a checkpoint's bytes said: VERIFIED or DAMAGED."""
        with self._writing() as session:
            row = session.get(CheckpointRow, (run, path))
            if row is None:
                raise NotFound(f"run '{run}' has no checkpoint {path}", hint=f"clipctl checkpoints {run}")
            row.state = state

    # --- what people and policy decide ----------------------------------------------------------

    def hold(self, run: str, *, actor: str, basis: str, time: float) -> None:
        """Nothing is started for this run until it is released. A live job goes on."""
        with self._deciding(run, Entry(kind=EntryKind.HOLD, actor=actor, basis=basis, time=time)) as (_, row):
            row.hold_reason = basis

    def release(self, run: str, *, actor: str, basis: str, time: float) -> None:
        with self._deciding(run, Entry(kind=EntryKind.RELEASE, actor=actor, basis=basis, time=time)) as (_, row):
            row.hold_reason = None

    def cancel(self, run: str, *, actor: str, basis: str, time: float) -> JobRecord | None:
        """Final for everybody but a person who resumes. Returns the live job: the scheduler must be told next."""
        entry = Entry(kind=EntryKind.CANCEL, actor=actor, basis=basis, time=time)
        with self._deciding(run, entry) as (session, row):
            row.cancelled_at = time
            live = rows.live_job(session, run)
            if live is not None:
                live.cancel_requested_at = time
        return None if live is None else self.job(live.nonce)

    def stop(self, nonce: str, *, actor: str, basis: str, time: float) -> JobRecord:
        """Before the scheduler is told: a job that policy ends was not cancelled by anybody. Once is enough."""
        with self._writing() as session:
            job, run = rows.existing_job(session, nonce)
            if job.stop_requested_at is None and job.ended_at is None:
                job.stop_requested_at = time
                facts = {"nonce": nonce}
                entries.record(session, run, entries.told(EntryKind.STOP, actor, basis, time, job.attempt, facts))
        return self.job(nonce)

    def complete(self, run: str, *, actor: str, basis: str, time: float) -> None:
        """The decision that a run is done; its state already follows from the trainer's last word."""
        with self._deciding(run, Entry(kind=EntryKind.COMPLETE, actor=actor, basis=basis, time=time)):
            pass

    # --- reads ----------------------------------------------------------------------------------

    def run(self, name: str) -> RunRecord:
        with self._reading() as connection:
            record = views.run(connection, name)
        if record is None:
            raise NotFound(f"there is no run {name!r}", hint="clipctl status --all")
        return record

    def runs(self) -> tuple[RunRecord, ...]:
        with self._reading() as connection:
            return views.runs(connection)

    def job(self, nonce: str) -> JobRecord:
        with self._reading() as connection:
            record = views.job(connection, nonce)
        if record is None:
            raise NotFound(f"there is no job {nonce}", hint="clipctl status --all")
        return record

    def newest_job(self, run: str) -> JobRecord:
        """Of the run's newest attempt, live or not."""
        with self._reading() as connection:
            record = views.newest_job(connection, run)
        if record is None:
            raise NotFound(f"there is no run {run!r}", hint="clipctl status --all")
        return record

    def jobs_live(self) -> tuple[JobRecord, ...]:
        """Every job that may be alive, of all runs, the oldest first."""
        with self._reading() as connection:
            return views.jobs_live(connection)

    def history(self, run: str) -> History:
        record = self.run(run)
        with self._reading() as connection:
            return views.history(connection, record)

    def series(self, run: str, attempt: int) -> Series:
        """The newest stretch of losses on the way to where the attempt stands."""
        with self._reading() as connection:
            return progress.series(connection, run, attempt)

    def decisions(self, run: str) -> tuple[DecisionRecord, ...]:
        with self._reading() as connection:
            return views.decisions(connection, run)

    # --- transactions ---------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One moment of the database; no write lock."""
        with homes.explained(self.path), homes.decoded(self.path):
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.rollback()

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with homes.explained(self.path):
            try:
                with Session(self._engine, expire_on_commit=False) as session, session.begin():
                    yield session
            except DBAPIError as error:
                if isinstance(error.orig, sqlite3.Error):
                    raise error.orig from error
                raise

    @contextmanager
    def _deciding(self, run: str, entry: Entry) -> Iterator[tuple[Session, RunRow]]:
        with self._writing() as session:
            row = rows.existing_run(session, run)
            yield session, row
            entries.record(session, row, entry)


def _connect(path: Path) -> sqlite3.Connection:
    # isolation_level None: every transaction here is one that we begin
    connection = sqlite3.connect(path, timeout=homes.BUSY_SECONDS, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        migrate.migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection
