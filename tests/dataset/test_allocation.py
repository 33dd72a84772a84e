"""From what was found in a set to what a run would do with it."""

from __future__ import annotations

import pytest

from clipctl.dataset.allocation import Allocation, allocation, objections
from trainer.contract import Data, TrainSpec


def l14(*, resampled: bool = True, workers: int = 6) -> Allocation:
    """The card's run on 96 x 4 ranks, over 2 billion pairs of 36 kB, on nodes that read 500 MB/s."""
    data = Data(
        train_data="/data/{00000..23295}.tar",
        train_num_samples=200_000_000,
        dataset_resampled=resampled,
        workers=workers,
    )
    train = TrainSpec(model="ViT-L-14", data=data, epochs=160, batch_size=208)
    return allocation(train, nodes=96, ranks=384, pairs=2e9, bytes_per_pair=36e3, bytes_per_second=500e6)


def test_an_epoch_is_counted_as_the_trainer_counts_it() -> None:
    found = l14()
    assert (found.samples_per_epoch, found.samples_per_rank) == (2508 * 384 * 208, 2508 * 208)
    assert found.readers == 384 * 6
    assert found.passes_per_epoch == pytest.approx(2508 * 384 * 208 / 2e9)


def test_reading_is_compared_with_training() -> None:
    found = l14()
    assert found.bytes_per_node == pytest.approx(2508 * 4 * 208 * 36e3)
    assert found.hours_per_epoch == pytest.approx(2508 * 4 * 208 * 36e3 / 500e6 / 3600)
    assert found.samples_per_second_and_rank == pytest.approx(500e6 / 36e3 / 4)


def test_shards_must_do_for_all_readers_unless_they_are_drawn() -> None:
    few = {"shards": 2303, "bad": 0, "seen": 1}
    assert objections(l14(), **few) == ()
    assert objections(l14(resampled=False), **few) == (
        "2,303 shards are too few for 2,304 readers (ranks x workers); "
        "fewer workers, or --set train.data.dataset_resampled=true",
    )
    assert objections(l14(resampled=False), **few | {"shards": 2304}) == ()
    assert objections(l14(resampled=False, workers=0), **few | {"shards": 384}) == ()
    assert objections(l14(resampled=False, workers=0), **few | {"shards": 383}) != ()


def test_too_many_bad_samples_end_a_run() -> None:
    assert objections(l14(), shards=1, bad=10, seen=1000) == ()
    assert objections(l14(), shards=1, bad=11, seen=1000) == (
        "1.10% of the samples cannot be used, and the trainer gives up at train.data.max_bad_fraction=0.01",
    )
