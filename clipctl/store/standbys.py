"""The one job of a run that may wait in the queue for the end of the live one: the store's writes and reads of it.

It is no attempt yet, and no live job: it becomes both in one transaction, once it has claimed its attempt's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipctl.domain import Accepted, JobIdentity, JobReport, JobState, Rejected, Unknown
from clipctl.errors import Refused
from clipctl.layout import RunFolder
from clipctl.store import comparison, rows, standing
from clipctl.store.effects import INTENDED
from clipctl.store.ledger import EntryKind
from clipctl.store.records import ANSWERS, Answer, Intent, StandbyRecord
from clipctl.store.tables import JobRow
from clipctl.store.transactions import Entry, Transactions
from trainer.contract import Parent


class Standbys(Transactions):
    """A part of the store. A nonce names one that stands, or once stood, by."""

    def intend_standby(self, run: str, after: int, intent: Intent) -> JobIdentity:
        """The intent of a job that goes on where `after` ends. Refused: one stands by, or that attempt is over.

        Damaged: database and run folder do not say the same of this run, so nobody knows what may be alive.
        """
        with self._writing() as session:
            row = rows.existing_run(session, run)
            folder = RunFolder(Path(row.folder))
            self._take_back_what_was_not_committed(session, row, folder)
            comparison.trust(self._connection, run, folder, self.path)
            live, number = rows.live_job(session, run), rows.next_attempt(session, run)
            if live is None or live.attempt != after:
                raise Refused(f"attempt {after} of run '{run}' has no job that lives", hint=f"clipctl status {run}")
            facts = {"nonce": intent.nonce, "after": after} | {name: getattr(intent, name) for name in INTENDED}
            entry = Entry(
                kind=EntryKind.STANDBY,
                actor=intent.actor,
                basis=intent.basis,
                time=intent.time,
                attempt=number,
                facts=facts,
            )
            self._record(session, row, entry)
            return JobIdentity(run=run, run_id=row.run_id, attempt=number, nonce=intent.nonce, submitted_at=intent.time)

    def standby_answered(self, nonce: str, answer: Accepted | Rejected | Unknown, *, time: float) -> None:
        """What the scheduler said to its submission. Rejected: there is none."""
        said = answer.scheduler_id if isinstance(answer, Accepted) else answer.reason
        self._tell(nonce, EntryKind.STANDBY_ANSWER, "scheduler", said, time, {"answer": ANSWERS[type(answer)]})

    def standby_observed(self, nonce: str, report: JobReport | None, *, time: float) -> None:
        """What a scheduler that answered said of it; None: it did not list it. What is not new leaves no trace."""
        with self._reading() as connection:
            standby = standing.job(connection, nonce)
        if standby is None or (seen := sight(standby, report)) is None:
            return
        basis = f"the scheduler says {report.state}" if report else "the scheduler does not list it"
        self._tell(nonce, EntryKind.STANDBY_SEEN, "scheduler", basis, time, seen)

    def withdraw(self, nonce: str, *, actor: str, basis: str, time: float) -> None:
        """Before anything is told to the scheduler. Once is enough."""
        self._tell(nonce, EntryKind.WITHDRAW, actor, basis, time, {})

    def standby_ended(self, nonce: str, *, state: JobState, basis: str, time: float) -> None:
        """It is gone for certain. Only now may another job of the run be intended."""
        self._tell(nonce, EntryKind.STANDBY_END, "clipctl", basis, time, {"state": state})

    def promote(self, nonce: str, parent: Parent | None, *, basis: str, time: float) -> None:
        """From here on it is the run's newest attempt, and its live job. Refused: another job may be alive."""
        with self._reading() as connection:
            intended = standing.intent(connection, nonce)
        self._tell(nonce, EntryKind.PROMOTE, "clipctl", basis, time, {**intended, "parent": parent})

    def _tell(self, nonce: str, kind: EntryKind, actor: str, basis: str, time: float, facts: Mapping[str, Any]) -> None:
        """Nothing happens to one that has ended, and none is withdrawn twice: another process was faster."""
        with self._writing() as session:
            standby, run = rows.existing_standby(session, nonce)
            if standby.ended_at is not None or (kind is EntryKind.WITHDRAW and standby.withdrawn_at is not None):
                return
            facts = {"nonce": nonce, **facts}
            entry = Entry(kind=kind, actor=actor, basis=basis, time=time, attempt=standby.attempt, facts=facts)
            self._record(session, run, entry)

    # --- reads ----------------------------------------------------------------------------------

    def next_attempt(self, run: str) -> int:
        """The number that the next attempt would have."""
        with self._reading() as connection:
            return standing.next_attempt(connection, run)

    def standby(self, run: str) -> StandbyRecord | None:
        """The one that may start, or that is not known to be gone."""
        with self._reading() as connection:
            return standing.of(connection, run)

    def standbys(self) -> tuple[StandbyRecord, ...]:
        """Of all runs."""
        with self._reading() as connection:
            return standing.everywhere(connection)

    def wanting_standbys(self) -> frozenset[str]:
        """Runs with a job that may live, and whose settings ask for one."""
        with self._reading() as connection:
            return standing.wanting(connection)

    def standby_gave_up(self, run: str, after: int) -> bool:
        """Whether one for that attempt ended by itself: refused, or ended by others. It is not submitted again."""
        with self._reading() as connection:
            return standing.gave_up(connection, run, after)


def sight(job: JobRow | StandbyRecord, report: JobReport | None) -> dict[str, Any] | None:
    """What is new about a job, or one that stands by; None: nothing. `state` None: it is missing now."""
    if report is None:
        return None if job.missing_since is not None else {"state": None}
    known = (job.state, job.scheduler_id, job.answer, job.missing_since)
    if known == (report.state, report.scheduler_id, Answer.ACCEPTED, None):
        return None
    return {"state": report.state, "raw": report.raw, "scheduler_id": report.scheduler_id}
