"""Only what is tagged as safe is trained on; what is left out is told, and is nothing bad."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

import pytest

from tests.trainer.shard_files import loading, numbers, pair, spec, texts, write_shard
from trainer.shards import FRUITLESS_SHARDS, DataError, Tally, pairs


def tagged(number: int, facts: bytes) -> dict[str, bytes]:
    return pair(number) | {"json": facts}


def punsafe(value: object) -> bytes:
    return json.dumps({"url": "https://x/y.jpg", "punsafe": value}).encode()


UNKNOWN = [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b"{}", punsafe(None), punsafe("0.1"), punsafe(True)]


def write_mixed(folder: Path, shards: int = 4) -> str:
    """In each shard of 12 pairs every third one is below 0.5, one is at it, and one has no tag."""
    for shard in range(shards):
        facts = (punsafe(0.1), punsafe(0.5), punsafe(None))
        numbers = range(shard * 12, shard * 12 + 12)
        write_shard(folder / f"{shard}.tar", {f"{n:05d}": tagged(n, facts[n % 3]) for n in numbers})
    return f"{folder}/{{0..{shards - 1}}}.tar"


def test_only_samples_with_a_tag_below_the_threshold_are_trained_on(tmp_path: Path) -> None:
    with loading(spec(write_mixed(tmp_path), samples=16, batch_size=4, max_punsafe=0.5)) as loader:
        batches = list(loader.batches(1))
    trained = itertools.chain.from_iterable(batch.texts.flatten().tolist() for batch in batches)
    assert sorted(trained) == list(range(0, 48, 3))
    assert [batch.bad for batch in batches] == [{}] * 4, "what is left out is not bad"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_safe_subset_is_resumed_where_it_was(tmp_path: Path, workers: int) -> None:
    train = spec(write_mixed(tmp_path), samples=48, batch_size=4, max_punsafe=0.5)
    with loading(train, workers=workers) as loader:
        whole = numbers(loader, 1)
    with loading(train, workers=workers) as resumed:
        assert numbers(resumed, 1, 7) == whole[7:]


def test_safe_must_be_shown_and_what_was_left_out_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = {f"{n:02d}": tagged(n, facts) for n, facts in enumerate(UNKNOWN)}
    samples |= {"70": pair(70), "80": tagged(80, punsafe(0.9)), "81": tagged(81, b'{"punsafe": NaN}')}
    shard = str(write_shard(tmp_path / "0.tar", samples | {"90": tagged(90, punsafe(0)), "91": {"txt": b"no image"}}))
    tally = Tally()
    with caplog.at_level(logging.WARNING):
        safe = [found.text for found in pairs([shard, shard], tally, 0.5)]
    assert safe == [b"picture 90"] * 2
    assert tally.bad == {shard: 2}, "damage is counted as ever"
    left_out = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    why = "10 without a number punsafe in its json, 2 with punsafe not below 0.5"
    assert left_out == [f"{shard}: left out {why} (told once)"]


@pytest.mark.parametrize("resampled", [False, True])
def test_a_set_without_tags_ends_the_rank_in_one_line_instead_of_being_searched_for_ever(
    tmp_path: Path, resampled: bool
) -> None:
    shard = write_shard(tmp_path / "0.tar", {"0": pair(0), "1": pair(1)})
    train = spec(str(shard), samples=8, batch_size=4, max_punsafe=0.5, dataset_resampled=resampled)
    told = f"{FRUITLESS_SHARDS} shards in a row gave no image-text pair, at last {shard}, left out of it: 2 without"
    with loading(train) as loader, pytest.raises(DataError, match=told) as raised:
        texts(loader, 1)
    assert "\n" not in str(raised.value)
