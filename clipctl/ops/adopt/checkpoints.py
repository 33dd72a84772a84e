"""Which files of an experiment a run can go on from: every byte of each is read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from clipctl.adoption.weights import Contents, Unusable, examine
from clipctl.errors import NotFound
from clipctl.spec import RunSpec
from trainer.contract import CheckpointManifest, Stream
from trainer.schedule import Geometry

LATEST = "epoch_latest.pt"
MOST_JOBS = 8  # files read at a time: a login node is not ours alone
_EPOCH_FILE = re.compile(r"epoch_([1-9]\d*)\.pt")

Tell = Callable[[str, int, int], None]  # what is read, how much of it, how much there is


def checkpoints(
    folder: Path, spec: RunSpec, losses: Mapping[int, float], tell: Tell
) -> tuple[dict[Path, CheckpointManifest], tuple[str, ...]]:
    """By path, oldest first, and a line for each file that is none. `losses`: the last one of each epoch.

    NotFound: there is none, or none that can be used.
    """
    files = _files(folder)
    found: dict[int, tuple[Path, CheckpointManifest]] = {}
    left_out = []
    for path, contents in zip(files, _all_examined(files, tell), strict=True):
        if isinstance(contents, Unusable):
            left_out.append(f"{path}: {contents}")
        else:
            epochs = contents.epochs_done
            found.setdefault(epochs, (path, _manifest(path, contents, spec, losses.get(epochs))))
    if not found:
        lacking = f"{folder}: no checkpoint that a run could go on from"
        raise NotFound("\n".join([lacking, *left_out]), f"ls -l {folder}")
    return dict(found[epochs] for epochs in sorted(found)), tuple(left_out)


def _files(folder: Path) -> list[Path]:
    """By epochs; at the end what --save-most-recent keeps, which may be one of them once more."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    numbers = sorted(int(match[1]) for match in map(_EPOCH_FILE.fullmatch, names) if match)
    return [folder / f"epoch_{number}.pt" for number in numbers] + [folder / LATEST] * (LATEST in names)


def _all_examined(files: Sequence[Path], tell: Tell) -> list[Contents | Unusable]:
    """Some at a time: sums and digests are computed beside each other."""
    total, read, lock = 2 * sum(path.stat().st_size for path in files), 0, Lock()

    def look(path: Path) -> Contents | Unusable:
        def heard(count: int) -> None:
            nonlocal read
            with lock:
                read += count
                tell(path.name, read, total)

        try:
            return _examined(path, heard)
        except Unusable as error:
            return error

    pool = ThreadPoolExecutor(min(MOST_JOBS, len(os.sched_getaffinity(0))))
    try:
        return list(pool.map(look, files))
    finally:
        pool.shutdown(cancel_futures=True)


def _examined(path: Path, heard: Callable[[int], None]) -> Contents:
    contents = examine(path, heard)
    if path.name not in (LATEST, f"epoch_{contents.epochs_done}.pt"):
        raise Unusable(f"of another epoch than its name says: it holds {contents.epochs_done}")
    return contents


def _manifest(path: Path, contents: Contents, spec: RunSpec, loss: float | None) -> CheckpointManifest:
    geometry = Geometry.of(spec.train, spec.ranks)
    epochs = contents.epochs_done
    return CheckpointManifest(
        file=f"epoch_{epochs}.pt",
        size=contents.size,
        digest=contents.digest,
        run=spec.name,
        attempt=1,
        epochs_done=epochs,
        step=epochs * geometry.steps_per_epoch,
        step_in_epoch=0,
        samples_seen=contents.samples_seen or epochs * geometry.samples_per_epoch,
        loss=loss,
        finite=contents.finite,
        precision=spec.train.precision,
        stream=Stream(batch_size=geometry.batch_size, ranks=geometry.ranks, workers=geometry.workers),
        time=path.stat().st_mtime,
    )
