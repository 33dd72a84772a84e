"""What policy works with: what it may do, what it may look at, and what it decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from clipctl.domain.facts import CheckpointState, Incident, RunState
from trainer.contract import (
    CheckpointManifest,
    Count,
    CountOrZero,
    Fraction,
    NotNegative,
    Parent,
    Positive,
    Precision,
)

WATCHDOG = "watchdog"  # the actor of what no person decided


class Rung(StrEnum):
    """What can be tried against a divergence when the precisions are used up. Each once, on top of what was tried."""

    OTHER_DATA = "other_data"  # another seed: the same samples do not come in the same order again
    LOWER_LR = "lower_lr"  # by `lr_cut`
    CLIP_GRADIENTS = "clip_gradients"  # at `grad_clip_norm`
    LOWER_BETA2 = "lower_beta2"  # to `beta2`


@dataclass(frozen=True, kw_only=True)
class RecoverySpec:
    """What policy may do, and how often. Times in seconds.

    The rungs are what PaLM's report (other data) and OPT-175B's logbook (LR, clipping, beta2) tell of. Skipping batches
    is none of them: the trainer cannot, and another seed brings other batches as well.
    """

    precision_ladder: tuple[Precision, ...] = (Precision.AMP_FP16, Precision.AMP_BF16, Precision.FP32)
    rollback_epochs: CountOrZero = 1  # a divergence restarts this far before its last epoch finished, or further
    rungs: tuple[Rung, ...] = (Rung.OTHER_DATA, Rung.LOWER_LR, Rung.CLIP_GRADIENTS, Rung.LOWER_BETA2)
    lr_cut: Fraction = 0.1
    grad_clip_norm: Positive = 1.0
    beta2: Fraction = 0.95
    tries: Count = 6  # attempts in a row that may end without progress; then a person is needed
    crashes: Count = 3  # of these, crashes in a row
    submissions: Count = 24  # in a row that may be refused for now: about a day
    backoff: NotNegative = 60.0  # before the next try, doubled each time
    longest_backoff: NotNegative = 3600.0
    linger: NotNegative = 300.0  # how long a job may go on that has said that it diverged
    exclude_for: NotNegative = 172_800.0  # how long a strike counts against a node
    exclude_most: CountOrZero = 4  # nodes at a time
    standby: bool = False  # the next job waits in the queue while one runs, and goes on where that one ends


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """A checkpoint of a run, as the store knows it."""

    path: str  # as in `Parent.path`
    manifest: CheckpointManifest
    state: CheckpointState


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    number: int
    parent_digest: str | None
    parent_path: str | None
    settings_digest: str  # of the numerics settings: what must differ for another try to make sense
    train: Mapping[str, Any]  # TrainSpec as JSON
    patch: Mapping[str, Any]  # what differs from the run's spec as launched
    ranks: int
    created_at: float
    incident: Incident | None = None
    live: bool = False  # a job of it may be alive
    samples_seen: int = 0
    incident_at: float | None = None
    ended_at: float | None = None  # of its newest job
    adopted: bool = False  # open_clip_train ran it: what follows is a person's to say
    nodes: tuple[str, ...] = ()  # of its ranks in order, by the scheduler's names; empty: not known


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything policy may look at."""

    run: str
    state: RunState
    attempts: tuple[AttemptRecord, ...]
    checkpoints: tuple[CheckpointRecord, ...]
    hold_reason: str | None = None
    profiles: Mapping[Precision, Mapping[str, Any]] = field(default_factory=dict)  # settings that go with a precision
    exclude: str | None = ""  # nodes that the run as launched stays away from; None: nodes cannot be chosen
    set_going_at: float = 0.0  # when a person last launched, resumed or released it: budgets begin anew


# --- what is decided --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """How to go on: a checkpoint and what to change."""

    parent: CheckpointRecord | Parent | None  # None: from the start; Parent: a file that is not one of ours
    patch: Mapping[str, Any] = field(default_factory=dict)  # dotted paths to values; nodes to avoid are slurm.exclude


@dataclass(frozen=True, kw_only=True)
class Objection:
    """Why a remedy should not be. `name` is what --force takes; one that nothing overrules has `final`."""

    name: str
    text: str
    hint: str = ""
    final: bool = False


@dataclass(frozen=True, kw_only=True)
class Wait:
    basis: str


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A job that still runs is ended; what follows is decided when it is gone."""

    basis: str


@dataclass(frozen=True, kw_only=True)
class Resubmit:
    remedy: Remedy
    basis: str


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A person is needed."""

    basis: str


@dataclass(frozen=True, kw_only=True)
class Complete:
    basis: str


Decision = Wait | Stop | Resubmit | Hold | Complete
