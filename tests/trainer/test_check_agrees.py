"""`clipctl data check` and the trainer have two readers; on the same files they count the same."""

from __future__ import annotations

import contextlib
import io
import os
import random
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from clipctl.dataset.survey import Survey, Trouble, survey
from tests.dataset.tars import image, member, write_tar
from tests.dataset.test_headers import claiming
from tests.trainer.shard_files import number_of, pair, png, write_shard
from trainer.compose import compose
from trainer.shards import DataError, Tally, pairs

DECODED = frozenset({Trouble.IMAGE, Trouble.BOMB, Trouble.CAPTION})  # what the trainer finds when it decodes


def trained_on(*shards: Path) -> tuple[int, int]:
    """(bad, seen) of all pairs, one by one through the trainer's reading and decoding."""
    tally, told = Tally(), []
    for found in pairs(map(str, shards), tally):
        with contextlib.suppress(DataError):  # a batch of one that cannot be decoded: its count stays in the tally
            batch = compose([found], 0, lambda picture: torch.zeros(3, *picture.size), number_of, tally)
            told.append((batch.bad, batch.seen))
    told.append(tally.take())
    return sum(sum(bad.values()) for bad, _ in told), sum(seen for _, seen in told)


def looked_at(*shards: Path) -> Survey:
    found = Survey()
    for shard in shards:
        found.add(survey(str(shard)))
    return found


def assert_agreed(*shards: Path) -> None:
    checked = looked_at(*shards)
    assert (checked.bad, checked.seen) == trained_on(*shards)


SAMPLES = {
    "sound": pair(1),
    "jpeg": {"jpg": image(format="JPEG"), "txt": b"picture 1"},
    "gif as jpg": {"jpg": image(format="GIF"), "txt": b"picture 1"},
    "lossless webp": {"webp": image(format="WEBP", lossless=True), "txt": b"picture 1"},
    "html as jpg": {"jpg": b"<!DOCTYPE html><html>", "txt": b"picture 1"},
    "empty image": {"png": b"", "txt": b"picture 1"},
    "header flipped": {"png": png(1)[:20] + b"\1" + png(1)[21:], "txt": b"picture 1"},
    "bomb": {"png": claiming(50_000, 50_000), "txt": b"picture 1"},
    "no text": {"png": png(1)},
    "no image": {"txt": b"picture 1"},
    "neither": {"json": b"{}"},
    "latin-1": {"png": png(1), "txt": b"caf\xe9 1"},
    "bad in both": {"png": b"", "txt": b"\xff"},
    "suffix in capitals": {"PNG": png(1), "TXT": b"picture 1"},
    "twice": {"png": png(1), "PNG": png(2), "txt": b"picture 1"},
    "two images": {"png": b"", "jpg": image(format="JPEG"), "txt": b"picture 1"},
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_on_samples_of_every_kind(tmp_path: Path, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert_agreed(write_shard(tmp_path / "0.tar", {"00000": pair(0), "00001": SAMPLES[kind], "00002": pair(2)}))


MEMBERS = {
    "absolute": [member("/0.png", png(0)), member("/0.txt", b"picture 0")],
    "above": [member("../0.png", png(0)), member("../0.txt", b"picture 0")],
    "link": [member("0.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), member("0.txt", b"picture 0")],
    "hard link": [member("0.png", type=tarfile.LNKTYPE, linkname="1.png"), member("0.txt", b"picture 0")],
    "device": [member("0.png", type=tarfile.CHRTYPE), member("0.txt", b"picture 0")],
    "folder": [member("0.png", type=tarfile.DIRTYPE), member("0.txt", b"picture 0")],
    "meta": [member("__0__", b"x"), member("__0__/0.png", png(0)), member("__0__x.png", png(0))],
    "no suffix": [member("0", png(0)), member("a.b/0", png(0)), member(".png", png(0))],
    "two suffixes": [member("0.seg.png", png(0)), member("0.png", png(0)), member("0.txt", b"picture 0")],
    "apart": [member("0.png", png(0)), member("1.png", png(1)), member("0.txt", b"picture 0")],
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_on_members_that_nobody_should_write(tmp_path: Path, kind: str) -> None:
    whole = [member("9.png", png(9)), member("9.txt", b"picture 9")]
    assert_agreed(write_tar(tmp_path / "0.tar", [*MEMBERS[kind], *whole]))


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_on_archives_that_are_compressed(tmp_path: Path, mode: str) -> None:
    shard = tmp_path / f"0.tar.{mode[2:]}"
    with tarfile.open(shard, mode) as tar:  # type: ignore[call-overload]
        for info, content in (member("0.png", png(0)), member("0.txt", b"picture 0")):
            tar.addfile(info, io.BytesIO(content))
    assert_agreed(shard)
    os.truncate(shard, shard.stat().st_size // 2)
    assert_agreed(shard)


def test_on_shards_that_are_not_there(tmp_path: Path) -> None:
    assert_agreed(write_shard(tmp_path / "0.tar", {"0": pair(0)}), tmp_path / "1.tar", tmp_path)


def structural(found: Survey) -> int:
    return found.bad - sum(each.count for trouble, each in found.troubles.items() if trouble in DECODED)


def test_on_files_with_flipped_bytes_and_lost_tails(tmp_path: Path, soak: Callable[[int, int], int]) -> None:
    """Inside an image only decoding shows all damage: there, what the check calls bad is bad for the trainer, too."""
    rng = random.Random(5)
    shard, told = tmp_path / "0.tar", 0
    content = write_shard(shard, {f"{n:02d}": pair(n) for n in range(24)}).read_bytes()
    for _ in range(soak(150, 5000)):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(content))] = rng.randrange(256)
        shard.write_bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])])
        checked, tally = looked_at(shard), Tally()
        number = sum(1 for _ in pairs([str(shard)], tally))
        assert (structural(checked), checked.seen) == (tally.bad.total(), tally.seen)
        assert checked.pairs <= number
        assert checked.bad <= trained_on(shard)[0]
        told += checked.bad
    assert told > 100
