"""What goes into the store and what comes out of it, besides the words of `clipctl.domain`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from clipctl.domain import (
    Accepted,
    Cursor,
    EvaluationIdentity,
    JobIdentity,
    JobReport,
    JobState,
    Limits,
    Pulse,
    Rejected,
    RunState,
    Unknown,
)
from clipctl.journal import Landmarks
from trainer.contract import Event, Parent


class Answer(StrEnum):
    """What the scheduler said to a submission. None in a record: clipctl died before it could write it down."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    ADOPTED = "adopted"  # none was ever asked by us: open_clip_train ran it


ANSWERS: Mapping[type, Answer] = {Accepted: Answer.ACCEPTED, Rejected: Answer.REJECTED, Unknown: Answer.UNKNOWN}


@dataclass(frozen=True, kw_only=True)
class NewRun:
    name: str
    run_id: str  # unique over all stores: part of the job's name
    folder: Path  # absolute: <root>/runs/<name>
    cluster: str
    scheduler: str  # the cluster's
    spec: str  # the text of run.json
    epochs: int
    limits: Limits = field(default_factory=Limits)  # the cluster's patience


@dataclass(frozen=True, kw_only=True)
class Intent:
    """One attempt and the job that will hold it, before anything is submitted. Its number is the store's to give."""

    nonce: str
    time: float
    actor: str  # who decided: a user's name, or "watchdog"
    basis: str  # why, in words
    train: Mapping[str, Any]  # TrainSpec as JSON: everything resolved
    ranks: int
    settings_digest: str
    parent: Parent | None = None
    patch: Mapping[str, Any] = field(default_factory=dict)  # what differs from the run's spec as launched


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    name: str
    run_id: str
    folder: Path
    cluster: str
    scheduler: str
    spec: str  # the text of run.json
    epochs: int
    limits: Limits
    created_at: float
    state: RunState
    hold_reason: str | None
    cancelled_at: float | None
    attempts: int  # the newest one's number; standbys that were removed leave gaps


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job with all that a look at it needs to start from."""

    identity: JobIdentity
    folder: Path  # the run's
    answer: Answer | None
    scheduler_id: str | None
    state: JobState  # as last told by the scheduler
    raw: str
    missing_since: float | None
    cancel_requested: bool
    stop_requested_at: float | None
    ended_at: float | None  # None: may be alive
    exit_code: int | None
    cursor: Cursor
    landmarks: Landmarks
    pulse: Pulse | None = None  # as the last look felt it; None: nobody has looked yet
    troubled: bool = False  # an incident of its attempt is known

    @property
    def live(self) -> bool:
        return self.ended_at is None

    @property
    def report(self) -> JobReport | None:
        """What the scheduler last told; None if it never did."""
        if self.scheduler_id is None or self.state is JobState.UNKNOWN:
            return None
        return JobReport(nonce=self.identity.nonce, scheduler_id=self.scheduler_id, state=self.state, raw=self.raw)


@dataclass(frozen=True, kw_only=True)
class StandbyRecord:
    """The next job of a run, in the queue already. Its attempt comes into being when it has started."""

    identity: JobIdentity
    folder: Path  # the run's
    after: int  # the attempt where it is to go on
    answer: Answer | None
    scheduler_id: str | None
    state: JobState  # as last told by the scheduler
    raw: str
    missing_since: float | None
    withdrawn_at: float | None  # set: it must not start, and is only watched until it is gone
    ended_at: float | None
    running_since: float | None = None  # by the clock of who first saw it running, if it runs
    reason: str = ""  # the scheduler's word for why it waits: changes too often to be kept

    @property
    def words(self) -> str:
        """job 123, PENDING (Dependency)"""
        why = f" ({self.reason})" if self.reason and self.state is JobState.PENDING else ""
        leaving = ", is being removed" if self.withdrawn_at is not None else ""
        return f"job {self.scheduler_id or self.identity.nonce}, {self.state}{why}{leaving}"


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """A checkpoint that was, or is to be, scored on test sets by a job of its own."""

    identity: EvaluationIdentity
    folder: Path  # the run's
    cluster: str
    epoch: int  # epochs done
    checkpoint: str  # relative to the run's folder
    suite: str
    datasets: tuple[str, ...]
    answer: Answer | None
    scheduler_id: str | None
    raw: str  # why it was not accepted, or not known to be; how it ended without a word
    ended_at: float | None  # set: what it left is in the store
    exit_code: int | None  # None: it wrote none
    scores: Mapping[str, Mapping[str, float]]  # of each set its metrics


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Progress of an attempt that is known to have started, and nothing but that."""

    before: int  # seq of the newest event that the store knew
    after: Cursor
    events: tuple[Event, ...]


@dataclass(frozen=True, kw_only=True)
class DecisionRecord:
    """One line of decisions.jsonl, as the database indexes it."""

    id: str
    run: str
    attempt: int | None
    time: float
    actor: str
    kind: str
    basis: str
    facts: Mapping[str, Any]
