"""What reading commands show: the source of the tables and of --json alike. Times are seconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipctl.domain import CheckpointState, Incident, RunState
from trainer.contract import SCHEMA


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Of the newest attempt; None where nothing was heard yet."""

    epoch: int | None = None  # in progress, from 1
    epochs: int  # of the run
    step_in_epoch: int | None = None
    steps_per_epoch: int | None = None
    step: int | None = None  # optimizer steps from the start of the run, in this attempt's geometry
    samples_seen: int = 0
    loss: float | None = None  # mean over the last interval
    samples_per_second: float | None = None  # all ranks
    eta_seconds: float | None = None  # at that rate; only while running


@dataclass(frozen=True, kw_only=True)
class CheckpointView:
    path: str  # relative to the run's folder where it lies inside
    attempt: int | None
    epochs_done: int
    step: int | None
    step_in_epoch: int
    samples_seen: int
    loss: float | None
    size: int | None  # bytes
    digest: str | None
    state: CheckpointState
    time: float | None


@dataclass(frozen=True, kw_only=True)
class JobView:
    nonce: str
    scheduler_id: str | None
    state: str  # the scheduler's own word
    raw: str
    live: bool
    submitted_at: float
    cancel_requested: bool
    waits: str = ""  # why it is not running yet, in words
    never_runnable: bool = False  # as it was submitted it cannot start, however long it waits
    expected_start: float | None = None  # the scheduler's estimate
    ends_at: float | None = None  # when its wall time is over
    nodes: str = ""  # as the scheduler writes them


@dataclass(frozen=True, kw_only=True)
class StandbyView:
    """The next job, in the queue already."""

    attempt: int  # what it will be, if it may go on
    nonce: str
    scheduler_id: str | None
    state: str  # the scheduler's own word
    reason: str  # its word for why it waits
    removed: bool  # it must not start any more, and is not known to be gone
    text: str


def batch_of(ranks: int, batch_size: int, accum_freq: int) -> str:
    """`2 x 48`, or `2 x 48 x 4` where a step has four forward passes."""
    return f"{ranks} x {batch_size}" + (f" x {accum_freq}" if accum_freq > 1 else "")


@dataclass(frozen=True, kw_only=True)
class RunView:
    name: str
    state: RunState
    cluster: str
    folder: str
    created_at: float
    attempts: int
    progress: Progress
    precision: str
    batch_size: int  # samples of a rank's forward pass
    accum_freq: int  # forward passes a step
    ranks: int
    faults: tuple[str, ...]  # rehearsed ones: a run that carries any is not to be believed
    phase: str | None  # of the heartbeat
    last_sign_of_life: float | None  # the node's clock
    last_checkpoint: CheckpointView | None
    last_incident: Incident | None
    job: JobView | None
    standby: StandbyView | None
    hold_reason: str | None
    notes: tuple[str, ...]  # what could not be asked or read, what people asked for
    next: str  # the command to type

    @property
    def batch(self) -> str:
        return batch_of(self.ranks, self.batch_size, self.accum_freq)


@dataclass(frozen=True, kw_only=True)
class StatusView:
    time: float
    total: int  # runs in the store
    scheduler: str  # empty: it answered, or there was nothing to ask; else why not
    runs: tuple[RunView, ...]
    unwatched: float | None = None  # seconds since the watchdog's last tick, where that is too long
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Change:
    path: str  # dotted, below `train`
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class AttemptView:
    """A node of the lineage tree."""

    number: int
    parent_attempt: int | None  # None: from the start, or from a file that is not this run's
    parent_path: str | None
    created_at: float
    actor: str
    cause: str  # the decision's basis, in words
    changes: tuple[Change, ...]  # against the attempt whose checkpoint it started from
    precision: str
    batch_size: int
    accum_freq: int
    ranks: int
    samples_seen: int
    live: bool
    incident: Incident | None
    final: str | None  # the trainer's last word
    jobs: tuple[JobView, ...]
    versions: Mapping[str, Any]  # what it ran with, as the trainer said
    hosts: tuple[str, ...]

    @property
    def batch(self) -> str:
        return batch_of(self.ranks, self.batch_size, self.accum_freq)


@dataclass(frozen=True, kw_only=True)
class ShowView:
    run: RunView
    spec: Mapping[str, Any]
    lineage: tuple[AttemptView, ...]  # by number; a parent comes before its children
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class CheckpointsView:
    run: str
    folder: str
    checkpoints: tuple[CheckpointView, ...]  # by attempt, then samples seen
    schema: int = SCHEMA
