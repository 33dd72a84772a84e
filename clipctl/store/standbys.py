"""The one job of a run that may wait in the queue for the end of the live one: its own writes and reads.

It is no attempt yet, and no live job: it becomes both in one transaction, once it has claimed its attempt's folder.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from clipctl.domain import Accepted, JobIdentity, JobReport, JobState, Rejected, Unknown
from clipctl.errors import NotFound, Refused
from clipctl.store import entries, rows, views
from clipctl.store.ledger import EntryKind
from clipctl.store.records import Answer, Intent, StandbyRecord
from clipctl.store.tables import RunRow, StandbyRow
from trainer import contract
from trainer.contract import Parent

Writing = Callable[[], AbstractContextManager[Session]]
Reading = Callable[[], AbstractContextManager[sqlite3.Connection]]


class Standbys:
    """`Store.standbys`. `writing`, `reading`: the store's own transactions."""

    def __init__(self, writing: Writing, reading: Reading) -> None:
        self._writing, self._reading = writing, reading

    # --- its life -------------------------------------------------------------------------------

    def intend(self, run: str, after: int, intent: Intent) -> JobIdentity:
        """The intent of a job that goes on where `after` ends. Refused: one stands by, or that attempt is over."""
        with self._writing() as session:
            row = rows.existing_run(session, run)
            live = rows.live_job(session, run)
            if live is None or live.attempt != after:
                raise Refused(f"attempt {after} of run '{run}' has no job that lives", hint=f"clipctl status {run}")
            number = rows.next_number(session, row)
            standby = StandbyRow(
                nonce=intent.nonce,
                run=run,
                attempt=number,
                after=after,
                submitted_at=intent.time,
                intent=contract.dumps(intent),
                state=JobState.UNKNOWN,
            )
            _add(session, standby)
            entry = entries.intended(EntryKind.STANDBY, row, intent, number, after=after)
            entries.record(session, row, entry)
            return JobIdentity(run=run, run_id=row.run_id, attempt=number, nonce=intent.nonce, submitted_at=intent.time)

    def answered(self, nonce: str, answer: Accepted | Rejected | Unknown, *, time: float) -> None:
        """What the scheduler said to its submission. Rejected: there is none."""
        with self._writing() as session:
            standby, run = _existing(session, nonce)
            standby.answer = rows.ANSWERS[type(answer)]
            said = answer.scheduler_id if isinstance(answer, Accepted) else answer.reason
            if isinstance(answer, Accepted):
                standby.scheduler_id = said
            else:
                standby.raw = said
            if isinstance(answer, Rejected):
                standby.ended_at = time
            facts = {"nonce": nonce, "answer": standby.answer}
            entry = entries.told(EntryKind.STANDBY_ANSWER, "scheduler", said, time, standby.attempt, facts)
            entries.record(session, run, entry)

    def observed(self, nonce: str, report: JobReport | None, *, time: float) -> None:
        """What a scheduler that answered said of it; None: it did not list it."""
        with self._writing() as session:
            standby, _ = _existing(session, nonce)
            if report is None:
                standby.missing_since = time if standby.missing_since is None else standby.missing_since
                return
            standby.missing_since, standby.answer = None, Answer.ACCEPTED
            standby.state, standby.raw, standby.reason = report.state, report.raw, report.reason
            standby.scheduler_id = report.scheduler_id

    def withdraw(self, nonce: str, *, actor: str, basis: str, time: float) -> None:
        """Before anything is told to the scheduler. Once is enough."""
        with self._writing() as session:
            standby, run = _existing(session, nonce)
            if standby.withdrawn_at is None and standby.ended_at is None:
                standby.withdrawn_at = time
                facts = {"nonce": nonce}
                entry = entries.told(EntryKind.WITHDRAW, actor, basis, time, standby.attempt, facts)
                entries.record(session, run, entry)

    def ended(self, nonce: str, *, state: JobState, basis: str, time: float) -> None:
        """It is gone for certain. Only now may another job of the run be intended."""
        with self._writing() as session:
            standby, run = _existing(session, nonce)
            if standby.ended_at is None:
                standby.ended_at, standby.state = time, state
                facts = {"nonce": nonce, "state": state}
                entry = entries.told(EntryKind.STANDBY_END, "clipctl", basis, time, standby.attempt, facts)
                entries.record(session, run, entry)

    def promote(self, nonce: str, parent: Parent | None, *, basis: str, time: float) -> None:
        """From here on it is the run's newest attempt, and its live job. Refused: another job may be alive."""
        with self._writing() as session:
            standby, run = _existing(session, nonce)
            if standby.ended_at is not None:
                return
            standby.ended_at = time
            session.flush()
            intent = replace(contract.loads(Intent, standby.intent), parent=parent)
            job = rows.add_attempt(session, run, intent, standby.attempt)
            job.answer, job.scheduler_id = standby.answer, standby.scheduler_id
            job.state, job.raw, job.missing_since = standby.state, standby.raw, standby.missing_since
            run.epochs = int(intent.train["epochs"])
            entry = entries.intended(
                EntryKind.PROMOTE,
                run,
                intent,
                standby.attempt,
                after=standby.after,
                answer=standby.answer,
                scheduler_id=standby.scheduler_id,
                submitted_at=standby.submitted_at,
            )
            entries.record(session, run, replace(entry, basis=basis, time=time, actor="clipctl"))

    # --- reads ----------------------------------------------------------------------------------

    def of(self, run: str) -> StandbyRecord | None:
        """The one that may start, or that is not known to be gone."""
        with self._reading() as connection:
            return views.standby(connection, run)

    def all(self) -> tuple[StandbyRecord, ...]:
        with self._reading() as connection:
            return views.standbys(connection)

    def asked_for(self, run: str) -> bool:
        """Whether the newest attempt's settings want one. Cheap: asked for every run at every tick."""
        with self._reading() as connection:
            return views.standby_asked_for(connection, run)

    def gave_up(self, run: str, after: int) -> bool:
        """Whether one for that attempt ended by itself: refused, or ended by others. It is not submitted again."""
        with self._reading() as connection:
            return views.standby_gave_up(connection, run, after)


def _add(session: Session, standby: StandbyRow) -> None:
    name = standby.run  # not to be had after a failed flush
    session.add(standby)
    try:
        session.flush()
    except IntegrityError as error:
        if "standbys.run" not in str(error.orig):
            raise
        raise Refused(f"a job of run '{name}' stands by already", hint=f"clipctl status {name}") from error


def _existing(session: Session, nonce: str) -> tuple[StandbyRow, RunRow]:
    row = session.get(StandbyRow, nonce)
    if row is None:
        raise NotFound(f"no job {nonce} ever stood by", hint="clipctl status --all")
    return row, rows.existing_run(session, row.run)
