"""Real images for a demo without a network: the handwritten digits that scikit-learn ships, as webdataset shards.

1,797 scans of 8 x 8 pixels (UCI "Optical Recognition of Handwritten Digits", test part), four times enlarged.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import random
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipctl.errors import ClipctlError, Refused
from trainer.contract import sync_folder, write_atomic

TRAIN_SHARDS = 8
TEST_SHARD = "test.tar"
INDEX_FILE = "digits.json"  # written last: what the folder holds
ELSEWHERE = "clipctl data digits ANOTHER_FOLDER"
SIDE = 32  # pixels
HELD_OUT = 5  # every fifth image of each class
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = (
    "a handwritten {}",
    "a photo of a handwritten {}",
    "a scan of the digit {}",
    "the digit {}, written by hand",
    "the number {} on paper",
    "somebody wrote a {}",
)

Members = dict[str, bytes]  # suffix -> content of one sample


@dataclass(frozen=True)
class Digits:
    folder: Path
    samples: Mapping[str, int]  # by file name: train-000000.tar ... train-000007.tar, test.tar

    @property
    def train_samples(self) -> int:
        return sum(count for name, count in self.samples.items() if name != TEST_SHARD)

    @property
    def test_samples(self) -> int:
        return self.samples[TEST_SHARD]


def write_digits(folder: Path) -> Digits:
    """The digits in `folder`: `train-*.tar` (.png + .txt) and the held-out fifth in `test.tar` (.png + .cls).

    The same bytes whenever it is called with the same libraries; a folder that has them is left alone.
    Raises ClipctlError without scikit-learn, Refused where `folder` holds something else or cannot be written.
    """
    if found := _read_index(folder):
        return found
    pictures = _load()
    try:
        _write_atomic(folder, pictures)
    except OSError as error:
        if folder.exists():
            raise Refused(f"{folder} exists and is not a complete folder of digits", _instead_of(folder)) from error
        raise Refused(f"{folder} cannot be written: {error.strerror}", ELSEWHERE) from error
    written = _read_index(folder)
    assert written is not None
    return written


def _instead_of(folder: Path) -> str:
    """Never a command that would take away what somebody else has put there."""
    if not (folder / INDEX_FILE).exists():
        return ELSEWHERE
    there = shlex.quote(str(folder))
    return f"mv {there} {there}.damaged"


def _write_atomic(folder: Path, pictures: list[tuple[bytes, int]]) -> None:
    """The rename is the moment from which the folder exists: nobody ever reads a half written one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(temporary, pictures)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not _read_index(folder):
                raise
            return  # another process was faster, with the same bytes
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_index(folder: Path) -> Digits | None:
    """None unless the folder is ours and every shard has the size it was written with."""
    try:
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        complete = all((folder / name).stat().st_size == entry["size"] for name, entry in index.items())
        return Digits(folder, {name: entry["samples"] for name, entry in index.items()}) if complete else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _load() -> list[tuple[bytes, int]]:
    """(PNG, digit) of every image, in scikit-learn's order."""
    try:
        from PIL import Image

        load_digits = importlib.import_module("sklearn.datasets").load_digits  # it ships no types
    except ImportError as error:
        raise ClipctlError(
            f"the digits need {error.name}, which is not installed", "pip install 'clipctl[demo]'"
        ) from error
    digits = load_digits()
    return [(_png(Image, pixels), int(digit)) for pixels, digit in zip(digits.images, digits.target, strict=True)]


def _png(image_module: Any, pixels: Any) -> bytes:
    """`pixels`: 8 x 8 floats of 0 to 16."""
    small = image_module.fromarray((pixels * (255 / 16)).round().astype("uint8"))
    buffer = io.BytesIO()
    small.resize((SIDE, SIDE), image_module.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def _write(folder: Path, pictures: list[tuple[bytes, int]]) -> None:
    train, test = _split(pictures)
    # Digits come written by one person after another: shuffled, every shard has all hands.
    random.Random(0).shuffle(train)
    shards = {f"train-{shard:06d}.tar": train[shard::TRAIN_SHARDS] for shard in range(TRAIN_SHARDS)} | {
        TEST_SHARD: test
    }
    for name, samples in shards.items():
        _write_shard(folder / name, samples)
    index = {
        name: {"samples": len(samples), "size": (folder / name).stat().st_size} for name, samples in shards.items()
    }
    write_atomic(folder / INDEX_FILE, json.dumps(index, indent=1))


def _split(pictures: list[tuple[bytes, int]]) -> tuple[list[Members], list[Members]]:
    """Training and held-out samples; stratified, because every fifth image of each digit is held out."""
    train: list[Members] = []
    test: list[Members] = []
    for digit, name in enumerate(NAMES):
        for number, png in enumerate(png for png, label in pictures if label == digit):
            if number % HELD_OUT == HELD_OUT - 1:
                test.append({"png": png, "cls": str(digit).encode()})
            else:
                train.append({"png": png, "txt": CAPTIONS[number % len(CAPTIONS)].format(name).encode()})
    return train, test


def _write_shard(path: Path, samples: Iterable[Members]) -> None:
    with open(path, "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for number, members in enumerate(samples):
                for suffix, content in members.items():
                    header = tarfile.TarInfo(f"{number:05d}.{suffix}")  # no owner, no time: same bytes every time
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))
        file.flush()
        os.fsync(file.fileno())
