"""All that clipctl and its trainer share: the files that cross machines, and what is in them.

Standard library only: 384 ranks import this module, and so does a login node without torch.

Reading is lenient, so that two versions can meet over one run folder: unknown fields are ignored,
unknown event kinds are kept as text. A higher ``schema`` than ours is refused by whoever would *act* on it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

from trainer.trainspec import (
    BETWEEN_SOURCES as BETWEEN_SOURCES,
    Blocks as Blocks,
    Classes as Classes,
    Count as Count,
    CountOrZero as CountOrZero,
    Data as Data,
    DatasetType as DatasetType,
    Engine as Engine,
    Fault as Fault,
    FaultKind as FaultKind,
    Fraction as Fraction,
    Loss as Loss,
    NotNegative as NotNegative,
    Optim as Optim,
    Parallel as Parallel,
    Positive as Positive,
    Precision as Precision,
    Rehearsal as Rehearsal,
    Save as Save,
    Schedule as Schedule,
    Scheme as Scheme,
    Separator as Separator,
    TrainSpec as TrainSpec,
    ZeroShot as ZeroShot,
)

T = TypeVar("T")

SCHEMA = 1

# --- names of files, relative to an attempt's folder unless said otherwise -------------------------

ATTEMPT_FILE = "attempt.json"
CLAIM_FILE = "claim"
EVENTS_FILE = "events.jsonl"
HEARTBEAT_FILE = "heartbeat.json"
SAVE_FILE = "save-now.json"  # by clipctl, replaced for each request
CHECKPOINTS_FOLDER = "checkpoints"  # epoch_N.pt; open_clip's --resume latest globs checkpoints**/*.pt,
STEPS_FOLDER = "steps"  # so step_N.pt must lie elsewhere
MANIFEST_SUFFIX = ".json"  # epoch_68.pt -> epoch_68.pt.json
TENSORBOARD_FOLDER = "tensorboard"
# in jobs/<nonce>/
JOB_FILE = "job.json"
SUBMISSION_FILE = "submission.sh"
EXIT_FILE = "exit.json"
WITHDRAWN_FILE = "withdrawn"  # by clipctl: a job with that nonce must not claim any more, nor publish
LOGS_FOLDER = "logs"

NONCE_VARIABLE = "CLIPCTL_NONCE"  # in the environment of every process of a job: how a local job is found again


class ExitCode(IntEnum):
    """What a rank, and with it the job script, leaves with. 144 is submitit's word for "requeue": never ours."""

    COMPLETED = 0
    CRASHED = 1
    STOPPED = 85  # asked to stop; a checkpoint of this very step is on disk (open_clip_train: of an epoch before)
    DIVERGED = 86  # loss or gradients not finite, agreed by all ranks; no checkpoint was written
    FENCED = 87  # another attempt or job holds the run: do not restart this one
    REFUSED = 88  # attempt.json, its parent or the data cannot be used: a restart would not help


class Phase(StrEnum):
    """Of a heartbeat; each has its own patience."""

    STARTING = "starting"
    TRAINING = "training"
    CHECKPOINTING = "checkpointing"
    EVALUATING = "evaluating"


class EventKind(StrEnum):
    STARTED = "started"  # what runs: versions, hosts, geometry, parent as resolved, stream
    NOTICE = "notice"  # something a person should know; nothing acts on it
    PROGRESS = "progress"  # every log_every_n_steps
    DATA = "data"  # samples skipped, by shard
    CHECKPOINT = "checkpoint"  # a manifest was published, and is repeated here; `request`: the save-now it answers
    CONTINUED = "continued"  # after the first progress of a resume: the parent's numbers, and those now
    EVALUATED = "evaluated"
    FAULT = "fault"  # a rehearsed fault was let loose
    # final events: an attempt has at most one
    COMPLETED = "completed"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    CRASHED = "crashed"


FINAL_EVENTS = frozenset({EventKind.COMPLETED, EventKind.STOPPED, EventKind.DIVERGED, EventKind.CRASHED})


# --- files ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The checkpoint an attempt starts from, as decided."""

    path: str  # relative to the run's folder where it lies inside, else absolute
    digest: str | None = None  # None: not one of ours (no manifest)
    epochs_done: int = 0
    step: int = 0
    samples_seen: int = 0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """`attempt.json`: written by clipctl before the job is submitted, never changed."""

    run: str
    number: int  # from 1
    ranks: int
    train: TrainSpec
    parent: Parent | None = None  # None: from random weights, or `after` says it
    after: int | None = None  # a standby: goes on where that attempt ends, if it ends well; its claim names the parent
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Job:
    """`jobs/<nonce>/job.json`: which attempt a nonce was issued for."""

    run: str
    attempt: int
    nonce: str
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Claim:
    """`attempts/<n>/claim`: who holds the attempt. Created exclusively, before any rank starts."""

    nonce: str
    job_id: str  # the scheduler's, or the script's process id
    restart_count: int  # SLURM_RESTART_COUNT: the same job started again by the site
    host: str
    time: float
    parent: Parent | None = None  # of an attempt that stands by: where the one before it ended
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Exit:
    """`jobs/<nonce>/exit.json`: written by the script's EXIT trap; a missing one is normal (SIGKILL)."""

    code: int
    time: float
    scheduler: str = ""  # `scontrol show job -o`, where there is one
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class SaveNow:
    """`attempts/<n>/save-now.json`: a person wants a checkpoint, and training to go on.

    Rank 0 looks for it every few seconds and says so in the row of its next step, as it does for `save.minutes`; all
    ranks read that a step later, and save there. The `checkpoint` event names the request. One that cannot be met there
    (the loss is not finite) stays open; of several that came at once the newest is named.
    """

    number: int  # from 1 in each attempt
    actor: str
    time: float
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """Proof of life. Its age is the reader's own time since `counter` last changed."""

    counter: int
    phase: Phase
    epoch: int  # in progress, from 1
    step: int
    samples_seen: int
    time: float
    loss: float | None = None
    samples_per_second: float | None = None  # all ranks
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Event:
    """A fact that rank 0 wrote: one line of `events.jsonl`. `facts` are the kind's own fields, flat in the line."""

    seq: int  # from 1, without gaps within an attempt
    time: float
    kind: str  # an EventKind, or a newer version's word
    epoch: int  # in progress, from 1
    step: int  # optimizer steps done, counted from the start of the run in this attempt's geometry
    samples_seen: int
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What fixes the order of the data besides seed and epoch. A resume with another one starts a fresh stream."""

    batch_size: int  # samples a rank and step
    ranks: int
    workers: int
    origin: int = 0  # step of the epoch with which this stream started; 0: at the epoch's border


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """`<file>.json`, published after the file: a checkpoint exists when its manifest does."""

    file: str  # epoch_68.pt, step_171000.pt
    size: int  # bytes
    digest: str  # sha256:<hex> of the whole file
    run: str
    attempt: int
    epochs_done: int
    step: int  # see Event.step
    step_in_epoch: int  # steps done in the epoch that follows epochs_done; 0 at its border
    samples_seen: int
    loss: float | None  # mean over all ranks, last step
    finite: bool  # all weights; only finite ones are ever saved
    precision: Precision
    stream: Stream
    time: float
    schema: int = SCHEMA


# --- JSON -------------------------------------------------------------------------------------------

_EVENT_FIELDS = frozenset(field.name for field in dataclasses.fields(Event)) - {"facts"}


def to_jsonable(value: Any) -> Any:
    """Plain JSON types; numbers that JSON cannot say (nan, inf) become the strings that `float` reads."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def dumps(value: Any) -> str:
    """One line of JSON for a contract dataclass (or what `to_jsonable` takes)."""
    if isinstance(value, Event):
        flat = to_jsonable(value)
        return json.dumps(flat.pop("facts") | flat, allow_nan=False)
    return json.dumps(to_jsonable(value), allow_nan=False)


def loads(cls: type[T], text: str | bytes) -> T:
    """A contract dataclass from its JSON. ValueError says what is missing or of the wrong type."""
    try:
        raw = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError("not a JSON object")
    if cls is Event:
        raw["facts"] = {key: value for key, value in raw.items() if key not in _EVENT_FIELDS}
    return typing.cast(T, _parse(cls, raw, "$"))


def _parse(kind: Any, raw: Any, where: str) -> Any:
    """`raw` as `kind`: dataclasses, enums, X | None, tuples, mappings and scalars are all that the contract uses."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _parse(typing.get_args(kind)[0], raw, where)
    if origin in (typing.Union, types.UnionType):
        inner = next(item for item in typing.get_args(kind) if item is not types.NoneType)
        return None if raw is None else _parse(inner, raw, where)
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(typing.cast(type, kind), raw, where)
    if origin is tuple:
        if not isinstance(raw, list):
            raise ValueError(f"{where}: expected a list, found {raw!r:.80}")
        return tuple(_parse(typing.get_args(kind)[0], item, f"{where}[{index}]") for index, item in enumerate(raw))
    if kind is Any or origin is not None:  # Mapping[str, Any]
        return raw
    if kind is float and isinstance(raw, (int, float, str)) and not isinstance(raw, bool):
        return float(raw)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(raw)
    if not isinstance(raw, kind) or (kind is int and isinstance(raw, bool)):
        raise ValueError(f"{where}: expected {kind.__name__}, found {raw!r:.80}")
    return raw


def _parse_dataclass(kind: type, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: expected an object, found {raw!r:.80}")
    values = {}
    for name, (hint, required) in _fields(kind).items():
        if name in raw:
            values[name] = _parse(hint, raw[name], f"{where}.{name}")
        elif required:
            raise ValueError(f"{where}.{name}: missing")
    return kind(**values)


@functools.cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {
        field.name: (
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    }


def write_atomic(path: Path, text: str) -> None:
    """Readers on other hosts see the old text or the new one; a crash leaves one of the two."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # on a full disk nothing of it is left, and it is said of what
        temporary.unlink(missing_ok=True)
        error.filename = error.filename or os.fspath(path)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
