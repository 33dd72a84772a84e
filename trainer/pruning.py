"""Which checkpoints may go, now that there is a newer one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer.contract import (
    ATTEMPT_FILE,
    CHECKPOINTS_FOLDER,
    EXIT_FILE,
    STEPS_FOLDER,
    Attempt,
    CheckpointManifest,
    loads,
)
from trainer.evaluation import EVALUATION_FILE, EVALUATIONS_FOLDER, Evaluation
from trainer.resume import parent_of
from trainer.verify import damage, manifest_path, read_manifest

KEPT_STEP_FILES = 2
AWAITED_FOR = 14 * 86400.0  # seconds; an evaluation that has left no word by then is thought to be gone


@dataclass(frozen=True)
class Saved:
    manifest: CheckpointManifest
    path: Path


def prune(attempt: Attempt, newest: Path, manifest: CheckpointManifest) -> None:
    """Removes what may go, now that `newest`, of this attempt, is published: once that is seen to be whole."""
    attempts = newest.parents[2]
    old = removable(
        [Saved(found, path) for path, found in published(attempts)],
        manifest,
        keep_last=attempt.train.save.keep_last,
        line_epochs=attempt.parent.epochs_done if attempt.parent else 0,
        protected=parents(attempts) | awaited(attempts.parent),
    )
    if old and damage(newest, manifest) is None:
        for path in old:
            manifest_path(path).unlink()  # first: from here on it does not exist
            path.unlink()


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


def awaited(run_folder: Path) -> frozenset[Path]:
    """Every checkpoint that an evaluation is to read: its job may wait in the queue for days."""
    found = set()
    for file in run_folder.glob(f"{EVALUATIONS_FOLDER}/*/{EVALUATION_FILE}"):
        try:
            age = time.time() - file.stat().st_mtime
            if age < AWAITED_FOR and not file.with_name(EXIT_FILE).exists():
                found.add(run_folder / loads(Evaluation, file.read_bytes()).checkpoint)
        except (OSError, ValueError):
            continue  # no evaluation costs the training anything
    return frozenset(found)
