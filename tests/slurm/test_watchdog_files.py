"""What lies in a run's folder and is no checkpoint is never started from."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.blows import everywhere
from tests.slurm.desk import eventually
from tests.story.watch import Watch
from trainer.verify import manifest_path

SPOILT = (4, 3, 2)  # of the four epochs done when the run crashes: what is good is epoch_1.pt
CRASHING = (
    "train.epochs=6",
    "train.faults=[{kind: crash, at_epoch: 5, at_step: 3}]",
    "recovery.backoff=0",
)


def poison(file: Path) -> None:
    """F22: not a number in it, but in place of numbers that were finite when the manifest was written."""
    size = file.stat().st_size
    file.write_bytes((struct.pack("<f", math.nan) * (size // 4 + 1))[:size])


def truncate(file: Path) -> None:
    """F23; nine cuts, one after the other, are in tests/trainer."""
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size * 9 // 10)


def flip(file: Path) -> None:
    """F24: one byte."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x01
    file.write_bytes(data)


def unpublish(file: Path) -> None:
    """F26: being written still, under its own name."""
    manifest_path(file).unlink()


def empty(file: Path) -> None:
    """F25."""
    file.write_bytes(b"")


@pytest.mark.parametrize(
    "spoilers",
    [(poison, flip, truncate), (unpublish, empty, flip)],
    ids=lambda spoilers: " ".join(spoil.__name__ for spoil in spoilers),
)
def test_the_newest_checkpoints_are_none(watch: Watch, spoilers: tuple[Callable[[Path], None], ...]) -> None:
    """F22 to F26: three newest ones, each spoilt in its way, among files that only look like checkpoints."""
    desk = watch.desk
    desk.launched("r", *CRASHING)
    eventually(lambda: desk.events("r", 1, "crashed"))
    folder = desk.folder("r") / "attempts/1/checkpoints"
    for epoch, spoil in zip(SPOILT, spoilers, strict=True):
        spoil(folder / f"epoch_{epoch}.pt")
    (folder / "tmp.pt").write_bytes((folder / "epoch_1.pt").read_bytes())
    (folder / "epoch_5.pt.save_tmp").write_bytes(b"PK")
    (folder / "epoch_70.pt").mkdir()
    run = watch.completes("r")
    assert run.attempt(2)["parent"]["path"] == "attempts/1/checkpoints/epoch_1.pt"
    assert run.kinds() == ["crashed"]


def test_a_parent_that_vanishes_while_its_job_waits(watch: Watch) -> None:
    """F33: it refuses to start, rather than to start from nothing, and a person is asked."""
    desk = watch.desk
    desk.launched("r", *CRASHING)
    eventually(lambda: desk.events("r", 1, "crashed"))
    everything = everywhere(desk)
    run = watch.attempts("r", 2)
    (desk.folder("r") / run.attempt(2)["parent"]["path"]).unlink()
    desk.cluster.run("scancel", everything)
    assert "a restart would not help" in watch.held("r")
    assert not run.events(2, "progress")
