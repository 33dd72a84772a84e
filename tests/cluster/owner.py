"""Whose a cluster is, and the end of what a dead owner left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .processes import MARK, all_processes, end, of_cluster, process

PREFIX = "emulated-"
NOBODY = 1  # lives as long as the machine: such a cluster stays until it is told to end


def claim(folder: Path, owner_pid: int) -> None:
    owner = process(owner_pid)
    written = folder / "owner.new"
    written.write_text(f"{owner.pid} {owner.start}" if owner else "")
    written.replace(folder / "owner")


def is_owned(folder: Path) -> bool:
    try:
        pid, start = map(int, (folder / "owner").read_text().split())
    except (FileNotFoundError, ValueError):
        return False
    owner = process(pid)
    return owner is not None and owner.start == start


def remove(folder: Path) -> None:
    """Its processes, then its files."""
    end(lambda: of_cluster(folder))
    shutil.rmtree(folder, ignore_errors=True)


def remove_ownerless() -> list[Path]:
    """Clusters whose owners died without ending them, wherever their folders are."""
    found = sorted({folder for folder in _clusters() if not is_owned(folder)})
    for folder in found:
        remove(folder)
    return found


def _clusters() -> Iterator[Path]:
    """Folders of clusters that have processes, and those below the temporary folder that have none left.

    Root sees everybody's; a folder that is not of the process's own user is none of its business.
    """
    for item in all_processes():
        if (mark := item.environment.get(MARK)) and _user(Path(mark)) in (None, _user(item.folder)):
            yield Path(mark)
    for owner in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/owner"):
        if _user(owner) == os.geteuid():
            yield owner.parent


def _user(path: Path) -> int | None:
    """Whose it is; None where it is not, or no longer."""
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        return None
