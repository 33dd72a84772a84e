"""File systems and the room that a run's checkpoints need."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from trainer.contract import Engine, Save, TrainSpec

# Of open_clip's own configurations, counted from its modules (open_clip 3.3); other models are not judged.
PARAMETERS = {
    "RN50": 102_007_137,
    "RN101": 119_688_033,
    "ViT-B-32": 151_277_313,
    "ViT-B-16": 149_620_737,
    "ViT-L-14": 427_616_513,
    "ViT-L-14-336": 427_944_193,
    "ViT-H-14": 986_109_441,
    "ViT-g-14": 1_366_678_273,
    "ViT-bigG-14": 2_539_567_105,
}
BYTES_A_PARAMETER = 12  # float32: the weight and AdamW's two moments
STEP_FILES = 2  # that the trainer keeps besides the epochs'
SHARED = frozenset({"nfs", "nfs4", "lustre", "gpfs", "beegfs", "beegfs_nodev", "ceph", "fuse.ceph", "wekafs", "panfs"})


@dataclass(frozen=True)
class Disk:
    kind: str  # as in /proc/mounts; empty where the system cannot tell
    free: int  # bytes that this user may take
    writable: bool

    @property
    def shared(self) -> bool:
        """Whether other hosts can see it; a local name of a shared one is not known to be so."""
        return self.kind in SHARED


def disk_of(path: Path) -> Disk | None:
    """Of the nearest folder of `path` that exists; None: there is none that can be reached."""
    folder = next((each for each in (path, *path.parents) if each.is_dir()), None)
    if folder is None:
        return None
    return Disk(_kind(folder), shutil.disk_usage(folder).free, os.access(folder, os.W_OK | os.X_OK))


def checkpoint_bytes(train: TrainSpec) -> int | None:
    """Of one file; None for a model whose size is not known here, and for a rehearsal, which has none."""
    parameters = PARAMETERS.get(train.model) if train.engine is not Engine.REHEARSAL else None
    return parameters * BYTES_A_PARAMETER if parameters else None


def files_kept(save: Save, epochs: int) -> int:
    """The most checkpoints that lie side by side, the one being written included."""
    written = -(-epochs // save.save_frequency)
    kept = written if save.keep_last is None else min(save.keep_last, written)
    return kept + (STEP_FILES if save.steps or save.minutes else 0) + 1


def _kind(folder: Path) -> str:
    """The last mount whose point is the longest one above `folder`."""
    here, best, kind = folder.resolve(), Path("/"), ""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in mounts:
        _, point, found, *_ = line.split(" ")
        mount = Path(point.encode().decode("unicode_escape"))
        if here.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, found
    return kind
