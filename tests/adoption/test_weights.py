"""Checkpoints are read without torch; what that says is compared with torch's own word. And damage of every kind."""

from __future__ import annotations

import hashlib
import os
import random
import zipfile
from pathlib import Path

import pytest
import torch

from clipctl.adoption.weights import Contents, Unusable, examine
from tests.adoption.experiment import Experiment

KINDS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def test_a_whole_one_is_told_with_size_digest_and_epochs(theirs: Experiment) -> None:
    path = theirs.save(3)
    heard: list[int] = []
    found = examine(path, heard.append)
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == Contents(digest, path.stat().st_size, epochs_done=3, samples_seen=None, finite=True)
    assert path.stat().st_size < sum(heard) <= 2 * path.stat().st_size


def test_the_samples_that_main_writes_are_believed(theirs: Experiment) -> None:
    assert examine(theirs.save(3, global_step=15, samples_seen=241)).samples_seen == 241


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_weights_are_finite_where_torch_says_so(kind: torch.dtype, theirs: Experiment) -> None:
    """Every pattern of the leading 16 bits: the largest numbers and the smallest, subnormal ones, nan, infinities."""
    width = torch.tensor([], dtype=kind).element_size()
    bits = torch.arange(1 << 16).to(torch.int32).unsqueeze(1)
    bytes_of = [torch.zeros_like(bits)] * (width - 2) + [bits & 255, bits >> 8]
    numbers = torch.cat(bytes_of, dim=1).to(torch.uint8).contiguous().view(kind).flatten()
    spoilt = ~torch.isfinite(numbers)
    assert 0 < int(spoilt.sum()) < len(numbers)
    good = theirs.save(1, state_dict={"weight": numbers[~spoilt]})
    assert examine(good).finite
    places = spoilt.nonzero().flatten().tolist()
    for place in (*places[:3], *places[-3:], *random.Random(0).sample(places, 10)):
        one = numbers[~spoilt].clone()
        one[place % len(one)] = numbers[place]
        assert not examine(theirs.save(1, state_dict={"weight": one})).finite, float(numbers[place])


def test_only_weights_count(theirs: Experiment) -> None:
    """The optimizer's state in these files is infinite throughout; whole numbers have no exponent."""
    assert examine(theirs.save(1, state_dict={"count": torch.full((9,), -1, dtype=torch.int64)})).finite
    assert not examine(theirs.save(1, weight=float("nan"))).finite


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99, 0.9999])
def test_a_cut_file_is_told_by_its_end(part: float, theirs: Experiment) -> None:
    path = theirs.save(1)
    os.truncate(path, int(part * path.stat().st_size))
    with pytest.raises(Unusable, match="not a whole torch checkpoint"):
        examine(path)


def test_a_flipped_bit_anywhere_in_the_numbers_is_told(theirs: Experiment) -> None:
    path = theirs.save(1)
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    whole = path.read_bytes()
    begin = largest.header_offset + whole[largest.header_offset :].index(bytes(torch.ones(1).numpy().tobytes()))
    for place in random.Random(0).sample(range(begin, begin + largest.file_size - 64), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(Unusable, match="Bad CRC-32"):
            examine(path)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(theirs: Experiment) -> None:
    trap = theirs.folder / "trap"
    with pytest.raises(Unusable, match=r"it holds posix.mkdir, and no plain weights"):
        examine(theirs.save(1, extra=Evil(trap)))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ({"weight": torch.ones(2)}, "no training state"),
        ([1, 2], "no training state"),
        ({"state_dict": {"weight": torch.ones(2)}}, "weights alone"),
        ({"state_dict": {}, "optimizer": {}, "epoch": "3"}, "weights alone"),
    ],
)
def test_what_is_no_training_state_is_told(payload: object, why: str, theirs: Experiment) -> None:
    path = theirs.folder / "checkpoints/epoch_1.pt"
    torch.save(payload, path)
    with pytest.raises(Unusable, match=why):
        examine(path)


def test_a_zip_of_anybody_else_is_told(theirs: Experiment) -> None:
    path = theirs.folder / "checkpoints/epoch_1.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("epoch_1/readme", "hello")
    with pytest.raises(Unusable, match=r"no data.pkl is in it"):
        examine(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("epoch_1/data.pkl", b"\x80\x02garbage")
    with pytest.raises(Unusable, match=r"its data.pkl cannot be read"):
        examine(path)
