"""Checkpoints: open_clip's names and keys, and a manifest without which they do not exist.

Order on disk: temporary file, fsync, rename, manifest. A kill at any moment leaves either no checkpoint or a whole one.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from trainer.contract import (
    ATTEMPT_FILE,
    CHECKPOINTS_FOLDER,
    SCHEMA,
    STEPS_FOLDER,
    Attempt,
    CheckpointManifest,
    EventKind,
    dumps,
    loads,
    sync_folder,
    to_jsonable,
    write_atomic,
)
from trainer.loop import Trainee
from trainer.position import Position
from trainer.recorder import Recorder
from trainer.resume import parent_of
from trainer.save_now import served
from trainer.verify import DIGEST_PREFIX, damage, manifest_path, read_manifest

KEPT_STEP_FILES = 2


class Fenced(Exception):
    """Another attempt or job has claimed the run: nothing of ours may be published any more."""


class NoKeeper:
    """Every rank but 0: data-parallel ranks hold the same weights."""

    def due(self, at: Position) -> bool:
        return False

    def save(self, at: Position, loss: float | None) -> str | None:
        return None


class CheckpointKeeper:
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

    def due(self, at: Position) -> bool:
        by_step = self._spec.steps is not None and at.step_in_epoch % self._spec.steps == 0
        minutes = (time.monotonic() - self._saved_at) / 60
        by_time = self._spec.minutes is not None and minutes >= self._spec.minutes
        return by_step or by_time or self._requested() > self._served

    def save(self, at: Position, loss: float | None) -> str | None:
        if not self._trainee.is_finite():
            self._recorder.event(EventKind.NOTICE, at, text="weights are not finite: no checkpoint is written")
            return None
        path = self._folder / name_of(at)
        path.parent.mkdir(exist_ok=True)
        request = self._requested()
        manifest = self._manifest(at, loss, path, self._write(at, path))
        write_atomic(manifest_path(path), dumps(manifest))
        relative = str(path.relative_to(self._folder))
        self._recorder.event(
            EventKind.CHECKPOINT,
            at,
            path=relative,
            digest=manifest.digest,
            epochs_done=manifest.epochs_done,
            step_in_epoch=manifest.step_in_epoch,
            manifest=to_jsonable(manifest),  # outlives the file
            **({"request": request} if request > self._served else {}),
        )
        self._served = max(self._served, request)
        self._saved_at = time.monotonic()
        self._prune(path, manifest)
        return relative

    def _write(self, at: Position, path: Path) -> str:
        """The file under its final name, durable; returns its digest. Of one that cannot be written nothing is left."""
        temporary = path.with_name(path.name + ".tmp")  # not *.pt: open_clip's --resume latest would take it
        try:
            digest = self._fill(at, temporary)
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

    def _fill(self, at: Position, temporary: Path) -> str:
        with open(temporary, "wb") as file:
            writer = _Hashing(file)
            self._write_payload(self._payload(at), cast(IO[bytes], writer))
            file.flush()
            os.fsync(file.fileno())
        return DIGEST_PREFIX + writer.hash.hexdigest()

    def _payload(self, at: Position) -> dict[str, Any]:
        """open_clip's keys (it ignores the last one)."""
        return (
            {"epoch": at.epochs_done, "name": self._attempt.run}
            | self._trainee.state()
            | {
                "clipctl": {
                    "schema": SCHEMA,
                    "attempt": self._attempt.number,
                    "step_in_epoch": at.step_in_epoch,
                    "samples_seen": at.samples_seen,
                    "precision": str(self._attempt.train.precision),
                    "stream": to_jsonable(at.stream),
                }
            }
        )

    def _manifest(self, at: Position, loss: float | None, path: Path, digest: str) -> CheckpointManifest:
        return CheckpointManifest(
            file=path.name,
            size=path.stat().st_size,
            digest=digest,
            run=self._attempt.run,
            attempt=self._attempt.number,
            epochs_done=at.epochs_done,
            step=at.step,
            step_in_epoch=at.step_in_epoch,
            samples_seen=at.samples_seen,
            loss=loss,
            finite=True,
            precision=self._attempt.train.precision,
            stream=at.stream,
            time=time.time(),
        )

    def _prune(self, newest: Path, manifest: CheckpointManifest) -> None:
        attempts = self._folder.parent
        parent = self._attempt.parent
        files = [Saved(found, path) for path, found in published(attempts)]
        old = removable(
            files,
            manifest,
            keep_last=self._spec.keep_last,
            line_epochs=parent.epochs_done if parent else 0,
            protected=parents(attempts),
        )
        if old and damage(newest, manifest) is None:
            for path in old:
                manifest_path(path).unlink()  # first: from here on it does not exist
                path.unlink()


@dataclass(frozen=True)
class Saved:
    manifest: CheckpointManifest
    path: Path


def removable(
    files: Iterable[Saved],
    newest: CheckpointManifest,
    *,
    keep_last: int | None,
    line_epochs: int,
    protected: frozenset[Path],
) -> list[Path]:
    """What may go, now that `newest` is there. `line_epochs`: the parent's epochs_done.

    Of this attempt and of what it grew out of, the last `keep_last` epoch files stay. Files that the line was
    rolled back behind go once this attempt has passed them. Step files are only for the way to the next ones.
    """
    mine = newest.attempt
    epochs = [file for file in files if file.manifest.step_in_epoch == 0 and file.path not in protected]
    steps = [file for file in files if file.manifest.step_in_epoch and file.path not in protected]
    steps = [file for file in steps if file.manifest.attempt == mine]
    old = sorted(steps, key=lambda file: file.manifest.samples_seen)[:-KEPT_STEP_FILES]
    if keep_last is not None:
        in_line = [file for file in epochs if file.manifest.attempt == mine or file.manifest.epochs_done <= line_epochs]
        old += sorted(in_line, key=lambda file: (file.manifest.epochs_done, file.manifest.attempt))[:-keep_last]
        passed = [file for file in epochs if file.manifest.epochs_done < newest.epochs_done]
        old += [file for file in passed if file not in in_line]
    return [file.path for file in old]


def name_of(at: Position) -> str:
    """open_clip's numbering: epoch_68.pt when 68 are done."""
    if at.step_in_epoch == 0:
        return f"{CHECKPOINTS_FOLDER}/epoch_{at.epochs_done}.pt"
    return f"{STEPS_FOLDER}/step_{at.step}.pt"


def published(attempts: Path) -> Iterable[tuple[Path, CheckpointManifest]]:
    for folder in (CHECKPOINTS_FOLDER, STEPS_FOLDER):
        for path in attempts.glob(f"*/{folder}/*.pt"):
            try:
                manifest = read_manifest(path)
            except ValueError:
                continue  # not ours to judge here; clipctl reports it
            if manifest is not None:
                yield path, manifest


def parents(attempts: Path) -> frozenset[Path]:
    """Every checkpoint that an attempt started from."""
    found = set()
    for file in attempts.glob(f"*/{ATTEMPT_FILE}"):
        parent = parent_of(loads(Attempt, file.read_bytes()), file.parent)
        if parent is not None:
            found.add(attempts.parent / parent.path)
    return frozenset(found)


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
