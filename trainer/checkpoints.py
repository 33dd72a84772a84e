"""Checkpoints: open_clip's names and keys, and a manifest without which they do not exist.

Training stands while the state is copied, not while the copy is written. Order on disk: temporary file, fsync, rename,
manifest. A kill at any moment leaves either no checkpoint or a whole one.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from trainer.contract import (
    CHECKPOINTS_FOLDER,
    SCHEMA,
    STEPS_FOLDER,
    Attempt,
    CheckpointManifest,
    EventKind,
    Save,
    dumps,
    sync_folder,
    to_jsonable,
    write_atomic,
)
from trainer.loop import Trainee
from trainer.position import Position
from trainer.pruning import prune
from trainer.recorder import Recorder
from trainer.save_now import served
from trainer.verify import DIGEST_PREFIX, manifest_path

FAILURES_BORNE = 1  # saves in a row that the disk may refuse while training goes on


class Fenced(Exception):
    """Another attempt or job has claimed the run: nothing of ours may be published any more."""


class NoKeeper:
    """Every rank but 0: data-parallel ranks hold the same weights."""

    unsaved: str | None = None

    def due(self, at: Position) -> bool:
        return False

    def asked(self) -> bool:
        return False

    def save(self, at: Position, loss: float | None) -> None: ...

    def finish(self) -> str | None:
        return None

    def close(self) -> None: ...


class Contributor(NoKeeper):
    """Every rank but 0 where each holds a part: it saves nothing, but takes part in what rank 0 saves."""

    def __init__(self, spec: Save, trainee: Trainee) -> None:
        self._spec, self._trainee = spec, trainee

    def due(self, at: Position) -> bool:
        return due_by_step(self._spec, at)

    def save(self, at: Position, loss: float | None) -> None:
        self._trainee.contribute()


def due_by_step(spec: Save, at: Position) -> bool:
    return spec.steps is not None and at.step_in_epoch % spec.steps == 0


@dataclass(frozen=True)
class _Save:
    """One that has begun."""

    at: Position
    loss: float | None
    request: int  # the save-now it answers; 0: none
    state: Mapping[str, Any]
    stood_seconds: float


class CheckpointKeeper:
    """Rank 0's. One save at a time: the next one waits for it, and so does the end. `close` it.

    A disk that refuses a save is a notice as long as a later one may succeed; a second refusal in a row, or one of the
    last save, is raised where training next looks (OSError, or torch's RuntimeError), and so is Fenced at once.
    """

    def __init__(
        self,
        attempt: Attempt,
        folder: Path,
        trainee: Trainee,
        recorder: Recorder,
        still_mine: Callable[[], bool],
        write: Callable[[Mapping[str, Any], IO[bytes]], None],
        requested: Callable[[], int] = lambda: 0,
    ) -> None:
        """`write`: the engine's way of putting a payload into a file. `requested`: the newest save-now's number."""
        self._attempt, self._folder = attempt, folder
        self._trainee, self._recorder, self._still_mine = trainee, recorder, still_mine
        self._write_payload = write
        self._spec = attempt.train.save
        self._saved_at = time.monotonic()
        self._requested, self._served = requested, served(folder)
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[Position, Future[str | None]] | None = None
        self._reserved = False  # room for the first copy
        self._failures = 0  # in a row
        self.unsaved: str | None = None

    def due(self, at: Position) -> bool:
        if not self._reserved:  # not earlier: an optimizer's state comes with its first step
            self._reserved = True
            self._writing = at, self._writer.submit(self._trainee.reserve())
        if self._writing and self._writing[1].done():
            self._settle(FAILURES_BORNE)
        return due_by_step(self._spec, at)

    def asked(self) -> bool:
        minutes = (time.monotonic() - self._saved_at) / 60
        by_time = self._spec.minutes is not None and minutes >= self._spec.minutes
        return by_time or self._requested() > self._served

    def save(self, at: Position, loss: float | None) -> None:
        began = time.perf_counter()
        self._settle(FAILURES_BORNE)
        self._reserved = True
        state = self._trainee.state()
        request = self._requested()
        answered = request if request > self._served else 0
        save = _Save(at, loss, answered, state, stood_seconds=time.perf_counter() - began)
        self._writing = at, self._writer.submit(self._publish, save)
        self._served = max(self._served, request)
        self._saved_at = time.monotonic()

    def finish(self) -> str | None:
        return self._settle(failures_borne=0)

    def close(self) -> None:
        """What is being written gets its time; how the attempt ended is known already."""
        self._writer.shutdown()
        if self._writing and (error := self._writing[1].exception()):
            print(f"{name_of(self._writing[0])}: {error}", file=sys.stderr, flush=True)

    def _settle(self, failures_borne: int) -> str | None:
        """Waits for the save that has begun: its path, None if nothing was written."""
        if self._writing is None:
            return None
        at, writing = self._writing
        self._writing = None
        try:
            path = writing.result()
        except (OSError, RuntimeError) as error:
            self._failures += 1
            if self._failures > failures_borne:
                raise
            self.unsaved = f"{name_of(at)} was not written: {error}"
            self._recorder.event(EventKind.NOTICE, at, text=f"{self.unsaved}; training goes on")
            return None
        self._failures, self.unsaved = 0, None
        return path

    # --- the thread that writes ---

    def _publish(self, save: _Save) -> str | None:
        at, began = save.at, time.perf_counter()
        if not self._trainee.is_finite(save.state):
            self._recorder.event(EventKind.NOTICE, at, text="weights are not finite: no checkpoint is written")
            return None
        path = self._folder / name_of(at)
        path.parent.mkdir(exist_ok=True)
        manifest = manifest_of(self._attempt, at, save.loss, path, self._write(save, path))
        write_atomic(manifest_path(path), dumps(manifest))
        relative = str(path.relative_to(self._folder))
        self._recorder.event(
            EventKind.CHECKPOINT,
            at,
            **published_as(relative, manifest),
            stood_seconds=round(save.stood_seconds, 6),
            write_seconds=round(time.perf_counter() - began, 6),
            **({"request": save.request} if save.request else {}),
        )
        prune(self._attempt, path, manifest)
        return relative

    def _write(self, save: _Save, path: Path) -> str:
        """The file under its final name, durable; returns its digest. Of one that cannot be written nothing is left."""
        temporary = path.with_name(path.name + ".tmp")  # not *.pt: open_clip's --resume latest would take it
        try:
            digest = self._fill(save, temporary)
        except (OSError, RuntimeError) as error:  # torch's own for a write that failed
            temporary.unlink(missing_ok=True)  # on a full disk the last word needs the room
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path.relative_to(self._folder))
            raise
        if not self._still_mine():
            temporary.unlink()
            raise Fenced(f"{path.name} is not published: another attempt or job holds the run")
        os.replace(temporary, path)
        sync_folder(path.parent)
        return digest

    def _fill(self, save: _Save, temporary: Path) -> str:
        with open(temporary, "wb") as file:
            writer = _Hashing(file)
            self._write_payload(self._payload(save), cast(IO[bytes], writer))
            file.flush()
            os.fsync(file.fileno())
        return DIGEST_PREFIX + writer.hash.hexdigest()

    def _payload(self, save: _Save) -> dict[str, Any]:
        """open_clip's keys (it ignores the last one)."""
        at = save.at
        return {
            "epoch": at.epochs_done,
            "name": self._attempt.run,
            **save.state,
            "clipctl": {
                "schema": SCHEMA,
                "attempt": self._attempt.number,
                "step_in_epoch": at.step_in_epoch,
                "samples_seen": at.samples_seen,
                "precision": str(self._attempt.train.precision),
                "stream": to_jsonable(at.stream),
            },
        }


def name_of(at: Position) -> str:
    """open_clip's numbering: epoch_68.pt when 68 are done."""
    if at.step_in_epoch == 0:
        return f"{CHECKPOINTS_FOLDER}/epoch_{at.epochs_done}.pt"
    return f"{STEPS_FOLDER}/step_{at.step}.pt"


class _Hashing:
    """Written front to back (it cannot seek): the digest costs no second reading."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def manifest_of(attempt: Attempt, at: Position, loss: float | None, path: Path, digest: str) -> CheckpointManifest:
    """Of a file that is whole and durable, its weights finite."""
    return CheckpointManifest(
        file=path.name,
        size=path.stat().st_size,
        digest=digest,
        run=attempt.run,
        attempt=attempt.number,
        epochs_done=at.epochs_done,
        step=at.step,
        step_in_epoch=at.step_in_epoch,
        samples_seen=at.samples_seen,
        loss=loss,
        finite=True,
        precision=attempt.train.precision,
        stream=at.stream,
        time=time.time(),
    )


def published_as(relative: str, manifest: CheckpointManifest) -> dict[str, Any]:
    """What the `checkpoint` event says of it."""
    return {
        "path": relative,
        "digest": manifest.digest,
        "epochs_done": manifest.epochs_done,
        "step_in_epoch": manifest.step_in_epoch,
        "manifest": to_jsonable(manifest),  # outlives the file
    }
