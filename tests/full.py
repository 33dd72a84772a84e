"""A disk of its own, so small that it can be full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = 4096  # what a tmpfs gives at least


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """`folder`, for as long, on a tmpfs of `size` bytes."""
    if os.geteuid() != 0:
        leave = pytest.fail if os.environ.get("CI") else pytest.skip
        leave("a full disk needs root, who may mount a small one")
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        # Lazily: also while somebody has a file open there
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, *, leave: int = 0) -> Path:
    """A file that takes all the room there is but `leave` bytes."""
    path = folder / "filler"
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(bytes(PAGE)):
                pass
        except OSError:
            file.truncate(file.tell() // PAGE * PAGE - leave)
    return path
