"""The tables as classes. The database comes into being by migrations alone; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKeyConstraint, Index, Integer, UniqueConstraint, text
from sqlmodel import Field, SQLModel


class RunRow(SQLModel, table=True):
    __tablename__ = "runs"
    __table_args__ = (Index("runs_by_state", "state"), Index("runs_by_age", "created_at"))
    name: str = Field(primary_key=True)
    run_id: str = Field(unique=True)
    folder: str
    cluster: str
    scheduler: str = Field(sa_column_kwargs={"server_default": "local"})
    spec: str
    epochs: int
    limits: str
    created_at: float
    state: str
    hold_reason: str | None = None
    cancelled_at: float | None = None


class AttemptRow(SQLModel, table=True):
    """`offset`, `inode`, `seq`: the cursor of its journal. `started` to `final`: the seq of that event, once read."""

    __tablename__ = "attempts"
    run: str = Field(primary_key=True, foreign_key="runs.name")
    number: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    parent: str | None = None
    settings_digest: str
    train: str
    patch: str
    ranks: int
    created_at: float
    offset: int = 0
    inode: int = 0
    seq: int = 0
    samples_seen: int = 0
    started: int | None = None
    progress: int | None = None
    checkpoint: int | None = None
    diverged: int | None = None
    final: int | None = None
    pulse: str | None = None


def _of_an_attempt() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["run", "attempt"], ["attempts.run", "attempts.number"])


class JobRow(SQLModel, table=True):
    __tablename__ = "jobs"
    __table_args__ = (
        _of_an_attempt(),
        Index("jobs_by_attempt", "run", "attempt"),
        Index("one_live_job_of_a_run", "run", unique=True, sqlite_where=text("ended_at IS NULL")),
    )
    nonce: str = Field(primary_key=True)
    run: str
    attempt: int
    submitted_at: float
    answer: str | None = None
    scheduler_id: str | None = None
    state: str
    raw: str = ""
    missing_since: float | None = None
    cancel_requested_at: float | None = None
    stop_requested_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None


class StandbyRow(SQLModel, table=True):
    """`after`: the attempt that it stands by for. `ended_at`: it became the attempt, or is known to be gone."""

    __tablename__ = "standbys"
    __table_args__ = (
        UniqueConstraint("run", "attempt"),
        Index("one_open_standby_of_a_run", "run", unique=True, sqlite_where=text("ended_at IS NULL")),
    )
    nonce: str = Field(primary_key=True)
    run: str = Field(foreign_key="runs.name")
    attempt: int
    after: int
    submitted_at: float
    intent: str
    answer: str | None = None
    scheduler_id: str | None = None
    state: str
    raw: str = ""
    missing_since: float | None = None
    withdrawn_at: float | None = None
    ended_at: float | None = None


class CheckpointRow(SQLModel, table=True):
    __tablename__ = "checkpoints"
    __table_args__ = (_of_an_attempt(),)
    run: str = Field(primary_key=True)
    path: str = Field(primary_key=True)
    attempt: int
    manifest: str
    state: str
    samples_seen: int


class EventRow(SQLModel, table=True):
    __tablename__ = "events"
    __table_args__ = (_of_an_attempt(), {"sqlite_with_rowid": False})
    run: str = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    seq: int = Field(primary_key=True)
    kind: str
    line: str


class IncidentRow(SQLModel, table=True):
    __tablename__ = "incidents"
    __table_args__ = (_of_an_attempt(),)
    run: str = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    time: float
    facts: str


class EvaluationRow(SQLModel, table=True):
    """`attempt`: the one that wrote the checkpoint. `ended_at`: what the job left was taken in."""

    __tablename__ = "evaluations"
    __table_args__ = (Index("evaluations_by_run", "run", "epoch"),)
    nonce: str = Field(primary_key=True)
    run: str = Field(foreign_key="runs.name")
    attempt: int
    epoch: int
    checkpoint: str
    suite: str
    datasets: str
    submitted_at: float
    answer: str | None = None
    scheduler_id: str | None = None
    raw: str = ""
    ended_at: float | None = None
    exit_code: int | None = None


class ScoreRow(SQLModel, table=True):
    __tablename__ = "scores"
    nonce: str = Field(primary_key=True, foreign_key="evaluations.nonce")
    dataset: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    run: str
    epoch: int
    value: float


class DecisionRow(SQLModel, table=True):
    __tablename__ = "decisions"
    __table_args__ = (Index("decisions_by_run", "run", "time"),)
    id: str = Field(primary_key=True)
    run: str = Field(foreign_key="runs.name")
    attempt: int | None = None
    time: float
    actor: str
    kind: str
    basis: str
    facts: str
