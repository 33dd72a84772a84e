"""Damage in real files is counted by shard, and costs nothing but the samples it hit."""

from __future__ import annotations

import itertools
import tarfile
from pathlib import Path

import pytest

from tests.trainer.shard_files import loading, pair, png, spec, texts, write_shard, write_shards
from trainer.shards import FRUITLESS_SHARDS, DataError, Tally, pairs


def read(*shards: Path) -> tuple[list[str], Tally]:
    tally = Tally()
    return [each.text.decode() for each in pairs(map(str, shards), tally)], tally


HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"


@pytest.mark.parametrize(
    "broken",
    [
        {"jpg": HTML, "txt": b"picture 5"},
        {"png": png(5)[:44], "txt": b"picture 5"},
        {"png": png(5)[:41] + bytes(7) + png(5)[48:], "txt": b"picture 5"},
        {"png": b"", "txt": b"picture 5"},
        {"png": png(5), "txt": b"\xff\xfe\xfd"},
    ],
    ids=["html as jpg", "cut", "flipped", "empty", "no text"],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_sample_is_replaced_within_its_batch_and_nothing_else_moves(
    tmp_path: Path, broken: dict[str, bytes], workers: int
) -> None:
    train = spec(write_shards(tmp_path, shards=2, pairs=8), samples=16, batch_size=4)
    with loading(train, workers=workers) as loader:
        sound = texts(loader, 1)
    shard = write_shard(tmp_path / "000.tar", {f"{n:05d}": broken if n == 5 else pair(n) for n in range(8)})
    with loading(train, workers=workers) as loader:
        batches = list(loader.batches(1))
    assert [item for batch in batches for item in batch.bad.items()] == [(str(shard), 1)]
    for before, batch in zip(sound, batches, strict=True):
        after = batch.texts.flatten().tolist()
        expected = [number if number != 5 else after[before.index(5)] for number in before]
        assert after == expected
        assert 5 not in after and set(after) <= set(before)
        assert batch.images[:, 0, 0, 0].int().tolist() == after


def test_a_cut_archive_gives_all_pairs_before_the_cut_and_counts_one_loss(tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "whole.tar", {f"{n:05d}": pair(n) for n in range(6)})
    with tarfile.open(whole) as tar:
        ends = [member.offset_data + member.size for member in tar if member.name.endswith(".txt")]
    content = whole.read_bytes()
    cut = tmp_path / "cut.tar"
    for length in itertools.chain(range(0, ends[-1], 173), range(512, ends[-1], 512)):
        cut.write_bytes(content[:length])
        found, tally = read(cut)
        surely, at_most = sum(end + 512 <= length for end in ends), sum(end <= length for end in ends)
        assert surely <= len(found) <= at_most
        assert found == [f"picture {n}" for n in range(len(found))]
        assert tally.bad == {str(cut): 1}, length


def test_a_whole_archive_loses_nothing(tmp_path: Path) -> None:
    found, tally = read(write_shard(tmp_path / "whole.tar", {f"{n:05d}": pair(n) for n in range(6)}))
    assert (len(found), tally.seen, dict(tally.bad)) == (6, 6, {})


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", {f"{n:05d}": pair(n) for n in range(40)})
    content = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        header = tar.getmembers()[20].offset
    content[header + 148 : header + 156] = b"00000000"  # the checksum
    shard.write_bytes(content)
    found, tally = read(shard)
    assert len(found) == 10
    assert tally.bad == {str(shard): 1}


def test_pairs_without_text_or_image_and_missing_shards_are_counted_where_they_are(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "0.tar", {"0": pair(0), "1": {"png": png(1)}, "2": {"txt": b"two"}, "3": pair(3)})
    second = write_shard(tmp_path / "1.tar", {"4": pair(4), "5": {"json": b"{}"}})
    missing = tmp_path / "2.tar"
    found, tally = read(first, missing, second)
    assert found == ["picture 0", "picture 3", "picture 4"]
    assert tally.bad == {str(first): 2, str(second): 1, str(missing): 1}
    assert tally.seen == 7


def test_a_member_that_comes_twice_is_counted_and_the_first_one_kept(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    write_shard(shard, {"0": pair(0)})
    with tarfile.open(shard, "a") as tar:
        tar.add(write_shard(tmp_path / "other", {}), "0.txt")
    found, tally = read(shard)
    assert (found, dict(tally.bad)) == (["picture 0"], {str(shard): 1})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_without_one_usable_image_ends_the_rank_in_one_line(tmp_path: Path, workers: int) -> None:
    for shard in range(2):
        write_shard(tmp_path / f"{shard}.tar", {str(n): {"jpg": HTML, "txt": b"x"} for n in range(8)})
    train = spec(f"{tmp_path}/{{0..1}}.tar", samples=16, batch_size=4)
    found = pytest.raises(DataError, match=r"without one usable sample, from .*[01]\.tar")
    with loading(train, workers=workers) as loader, found as raised:
        texts(loader, 1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("resampled", [False, True])
def test_shards_that_are_not_there_end_the_rank_instead_of_being_sought_for_ever(
    tmp_path: Path, resampled: bool
) -> None:
    train = spec(f"{tmp_path}/{{0..3}}.tar", samples=16, batch_size=4, dataset_resampled=resampled)
    found = pytest.raises(DataError, match=f"{FRUITLESS_SHARDS} shards in a row gave no image-text pair")
    with loading(train) as loader, found:
        texts(loader, 1)
