"""Every write to the store: short transactions that hold the database's only write lock from their first statement.

Where something is decided, its line goes to the run's decisions.jsonl inside the transaction, as the last thing before
the commit: a line may be left without its row (nothing was submitted yet), never a row without its line. Such a line
is taken back before the next one is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sqlmodel import Session

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
from clipctl.layout import RunFolder
from clipctl.store import comparison, home as homes, progress, rows, views
from clipctl.store.ledger import EntryKind
from clipctl.store.records import Answer, DecisionRecord, Intent, JobRecord, NewRun, RunRecord, Steps
from clipctl.store.standbys import ANSWERS, Standbys, sight
from clipctl.store.tables import CheckpointRow, IncidentRow, RunRow
from clipctl.store.transactions import Entry
from trainer import contract
from trainer.contract import Event


class Store(Standbys):
    """All writes, and the reads that a writer needs. Open it with `clipctl.store.open_store`."""

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
            homes.note_folder(self.home, new.folder, views.folders(self._connection))
            return self._intend(session, run, intent, new.epochs)

    def intend(self, run: str, intent: Intent) -> JobIdentity:
        """The next attempt of a run and the intent of its job. Refused: a job of the run may be alive.

        Damaged: database and run folder do not say the same of this run, so nobody knows what may be alive.
        Whoever starts a cancelled run again has changed their mind: it is cancelled no longer. A hold stays.
        """
        with self._writing() as session:
            row = rows.existing_run(session, run)
            folder = RunFolder(Path(row.folder))
            with homes.decoded(self.path):
                self._take_back_what_was_not_committed(session, row, folder)
                comparison.trust(self._connection, row.name, folder, self.path)
            return self._intend(session, row, intent, int(intent.train["epochs"]))

    def _intend(self, session: Session, run: RunRow, intent: Intent, epochs: int) -> JobIdentity:
        number = rows.next_attempt(session, run.name)
        facts = {
            "run_id": run.run_id,
            "cluster": run.cluster,
            "scheduler": run.scheduler,
            "epochs": epochs,
            "limits": json.loads(run.limits),
            "nonce": intent.nonce,
            "ranks": intent.ranks,
            "parent": intent.parent,
            "settings_digest": intent.settings_digest,
            "patch": intent.patch,
            "train": intent.train,
        }
        entry = Entry(
            kind=EntryKind.INTENT, actor=intent.actor, basis=intent.basis, time=intent.time, attempt=number, facts=facts
        )
        self._record(session, run, entry)
        return JobIdentity(
            run=run.name, run_id=run.run_id, attempt=number, nonce=intent.nonce, submitted_at=intent.time
        )

    # --- what became of a job -------------------------------------------------------------------

    def answered(self, nonce: str, answer: Accepted | Rejected | Unknown, *, time: float) -> None:
        """The scheduler's answer to the submission. Rejected: no job exists, and another may be intended."""
        said = answer.scheduler_id if isinstance(answer, Accepted) else answer.reason
        with self._writing() as session:
            job, run = rows.existing_job(session, nonce)
            facts = {"nonce": nonce, "answer": ANSWERS[type(answer)]}
            self._record(session, run, _told(EntryKind.ANSWER, "scheduler", said, time, job.attempt, facts))

    def observed(self, nonce: str, report: JobReport | None, *, time: float) -> None:
        """What a scheduler that answered said of the job; None: it did not list it. What is not new leaves no trace."""
        with self._writing() as session:
            job, run = rows.existing_job(session, nonce)
            if (seen := sight(job, report)) is None:
                return
            basis = f"the scheduler says {report.state}" if report else "the scheduler does not list it"
            found = {"found": True} if report and job.answer != Answer.ACCEPTED else {}
            facts = {"nonce": nonce, **seen, **found}
            self._record(session, run, _told(EntryKind.SEEN, "scheduler", basis, time, job.attempt, facts))

    def ended(self, nonce: str, *, state: JobState, basis: str, time: float, exit_code: int | None = None) -> None:
        """The job is over for certain: only now may another be intended. Nothing happens if that was known."""
        with self._writing() as session:
            job, run = rows.existing_job(session, nonce)
            if job.ended_at is not None:
                return
            facts = {"nonce": nonce, "state": state, "exit_code": exit_code}
            self._record(session, run, _told(EntryKind.END, "clipctl", basis, time, job.attempt, facts))

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
        kept once a kind; the one that ended the job, also after one that it had gone on with.
        """
        with self._writing() as session:
            row = rows.existing_run(session, run)
            attempt_row = rows.existing_attempt(session, run, attempt)
            rows.add_events(session, attempt_row, facts, cursor)
            if checkpoints is not None:
                rows.list_checkpoints(session, attempt_row, checkpoints)
            if incident is None or not _is_news(session.get(IncidentRow, (run, attempt, incident.kind)), incident):
                rows.restate(session, row)
                return
            said = {"incident": incident}
            self._record(session, row, _told(EntryKind.INCIDENT, "clipctl", incident.detail, time, attempt, said))

    def went_on(self, pulses: Mapping[tuple[str, int], Pulse], steps: Mapping[tuple[str, int], Steps]) -> None:
        """By run and attempt: of all jobs that one look saw, in one transaction. For those that just go on."""
        with self._writing() as session:
            connection = session.connection()
            rows.feel(connection, pulses)
            for (run, number), each in steps.items():
                rows.add_steps(connection, run, number, each)

    def checked(self, run: str, path: str, state: CheckpointState, *, time: float) -> None:
        """What a look at a checkpoint's bytes said: VERIFIED or DAMAGED."""
        with self._writing() as session:
            row = session.get(CheckpointRow, (run, path))
            if row is None:
                raise NotFound(f"run '{run}' has no checkpoint {path}", hint=f"clipctl checkpoints {run}")
            if row.state == state:
                return
            manifest = contract.loads(contract.CheckpointManifest, row.manifest)
            facts = {"path": path, "digest": manifest.digest, "state": state}
            basis = f"every byte of {path} was read"
            entry = _told(EntryKind.CHECKED, "clipctl", basis, time, row.attempt, facts)
            self._record(session, rows.existing_run(session, run), entry)

    # --- what people and policy decide ----------------------------------------------------------

    def hold(self, run: str, *, actor: str, basis: str, time: float) -> None:
        """Nothing is started for this run until it is released. A live job goes on."""
        self._decide(run, Entry(kind=EntryKind.HOLD, actor=actor, basis=basis, time=time))

    def release(self, run: str, *, actor: str, basis: str, time: float) -> None:
        self._decide(run, Entry(kind=EntryKind.RELEASE, actor=actor, basis=basis, time=time))

    def cancel(self, run: str, *, actor: str, basis: str, time: float) -> JobRecord | None:
        """Final for everybody but a person who resumes. Returns the live job: the scheduler must be told next."""
        with self._writing() as session:
            live = rows.live_job(session, run)
            entry = Entry(kind=EntryKind.CANCEL, actor=actor, basis=basis, time=time)
            self._record(session, rows.existing_run(session, run), entry)
        return None if live is None else self.job(live.nonce)

    def stop(self, nonce: str, *, actor: str, basis: str, time: float) -> JobRecord:
        """Before the scheduler is told: a job that policy ends was not cancelled by anybody. Once is enough.

        Also of one that was taken for gone and is seen again.
        """
        with self._writing() as session:
            job, run = rows.existing_job(session, nonce)
            if job.stop_requested_at is None:
                facts = {"nonce": nonce}
                self._record(session, run, _told(EntryKind.STOP, actor, basis, time, job.attempt, facts))
        return self.job(nonce)

    def save(self, nonce: str, number: int, *, actor: str, basis: str, time: float) -> None:
        """A person asks the job for a checkpoint, for the `number`th time in its attempt. It goes on training."""
        with self._writing() as session:
            job, run = rows.existing_job(session, nonce)
            facts = {"nonce": nonce, "request": number}
            self._record(session, run, _told(EntryKind.SAVE, actor, basis, time, job.attempt, facts))

    def complete(self, run: str, *, actor: str, basis: str, time: float) -> None:
        """The decision that a run is done; its state already follows from the trainer's last word."""
        self._decide(run, Entry(kind=EntryKind.COMPLETE, actor=actor, basis=basis, time=time))

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

    def series(self, run: str, attempt: int, fresh: Iterable[Event] = ()) -> Series:
        """The newest stretch of losses on the way to where the attempt stands. `fresh`: events not stored yet."""
        with self._reading() as connection:
            return progress.series(connection, run, attempt, fresh)

    def decisions(self, run: str) -> tuple[DecisionRecord, ...]:
        with self._reading() as connection:
            return views.decisions(connection, run)

    def _decide(self, run: str, entry: Entry) -> None:
        with self._writing() as session:
            self._record(session, rows.existing_run(session, run), entry)


def _is_news(known: IncidentRow | None, incident: Incident) -> bool:
    return known is None or (json.loads(known.facts).get("alive") and not incident.alive)


def _told(kind: EntryKind, actor: str, basis: str, time: float, attempt: int, facts: Mapping[str, Any]) -> Entry:
    return Entry(kind=kind, actor=actor, basis=basis, time=time, attempt=attempt, facts=facts)
