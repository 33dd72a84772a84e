"""The order of the data is a pure function of its position: nothing has to be saved to go on from anywhere."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.trainer.shard_files import loading, numbers, spec, texts, write_shards
from trainer.order import Reader, passes, seed_for
from trainer.sets import Shards
from trainer.shards import DataError, Tally

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> str:
    """96 pictures in 8 shards; two of them damaged, so that their counts are compared too."""
    folder = tmp_path_factory.mktemp("shards")
    pattern = write_shards(folder, shards=8, pairs=12)
    (folder / "002.tar").write_bytes((folder / "002.tar").read_bytes()[:9000])
    damaged = bytearray((folder / "005.tar").read_bytes())
    damaged[553:560] = bytes(7)  # inside the first picture
    (folder / "005.tar").write_bytes(damaged)
    return pattern


@pytest.mark.parametrize("resampled", [False, True], ids=["permuted", "resampled"])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_from_any_step_on_comes_exactly_the_tail_of_the_epoch(pattern: str, workers: int, resampled: bool) -> None:
    train = spec(pattern, samples=90, batch_size=8, dataset_resampled=resampled)
    with loading(train, workers=workers) as loader:
        whole = numbers(loader, epoch=2)
    assert len(whole) == loader.steps_per_epoch == 12
    assert {Path(shard).name for _, _, bad, _ in whole for shard in bad} == {"002.tar", "005.tar"}
    for first_step in (1, 5, 10):
        with loading(train, workers=workers) as resumed:
            assert numbers(resumed, 2, first_step) == whole[first_step:]


@pytest.mark.parametrize("workers", [0, 3])
def test_workers_that_run_on_give_what_fresh_ones_give(pattern: str, workers: int) -> None:
    train = spec(pattern, samples=90, batch_size=8)
    with loading(train, workers=workers) as loader:
        running_on = [numbers(loader, 1, 4), numbers(loader, 2), numbers(loader, 3)]
    for epoch, first_step in ((1, 4), (2, 0), (3, 0)):
        with loading(train, workers=workers) as fresh:
            assert numbers(fresh, epoch, first_step) == running_on[epoch - 1]


def test_without_worker_processes_the_rank_reads_what_one_worker_would(pattern: str) -> None:
    train = spec(pattern, samples=90, batch_size=8)
    with loading(train, workers=0) as alone, loading(train, workers=1) as helped:
        assert numbers(alone, 1) == numbers(helped, 1)


def test_an_epoch_left_half_way_can_be_entered_anywhere_again(pattern: str) -> None:
    train = spec(pattern, samples=90, batch_size=8)
    with loading(train, workers=2) as loader:
        whole = numbers(loader, 1)
        assert numbers(loader, 1, 7) == whole[7:]
        assert numbers(loader, 1) == whole


def test_seeds_epochs_and_ranks_have_streams_of_their_own(pattern: str) -> None:
    def stream(seed: int = 0, epoch: int = 1, rank: int = 0) -> list[list[int]]:
        with loading(spec(pattern, samples=96, batch_size=8, seed=seed), rank=rank, ranks=2) as loader:
            return texts(loader, epoch)

    streams = [stream(), stream(seed=1), stream(epoch=2), stream(rank=1)]
    assert all(one != other for one, other in itertools.combinations(streams, 2))
    assert stream() == streams[0]


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_stream_that_began_inside_an_epoch_is_found_again(pattern: str, workers: int) -> None:
    train = spec(pattern, samples=90, batch_size=8)
    with loading(train, workers=workers) as loader:
        from_the_border = texts(loader, 1)
        later_epochs = [numbers(loader, 2), numbers(loader, 4)]
    with loading(train, workers=workers, origin=5) as loader:
        fresh = numbers(loader, 1, 5)
        assert [batch[1] for batch in fresh] != from_the_border[5:]
        assert [numbers(loader, 2), numbers(loader, 4)] == later_epochs  # running on, and started afresh
    with loading(train, workers=workers, origin=5) as loader:
        assert numbers(loader, 1, 8) == fresh[3:]


@pytest.mark.parametrize("origin", [0, 5])
def test_each_step_takes_the_next_pairs_of_the_worker_whose_turn_it_is(tmp_path: Path, origin: int) -> None:
    """Batch i is batch (i - origin) // W of worker i % W."""
    train = spec(write_shards(tmp_path, shards=8, pairs=12), samples=96, batch_size=4)
    with loading(train, workers=3, origin=origin) as loader:
        epoch = texts(loader, 1, origin)
        readers = [Reader(train.seed, 1, origin, 0, 1, worker, 3) for worker in range(3)]
        streams = [loader.source.pairs.stream(reader, Tally()) for reader in readers]
    for step, batch in enumerate(epoch, start=origin):
        assert batch == [int(pair.text.split()[1]) for pair in itertools.islice(streams[step % 3], 4)]


@pytest.mark.parametrize("workers", [0, 2])
def test_without_replacement_every_sample_comes_once_before_any_comes_again(tmp_path: Path, workers: int) -> None:
    train = spec(write_shards(tmp_path, shards=8, pairs=12), samples=192, batch_size=4)
    ranks = []
    for rank in (0, 1):
        with loading(train, rank=rank, ranks=2, workers=workers) as loader:
            ranks.append(texts(loader, 1))
    steps = list(zip(*ranks, strict=True))
    for half in (steps[:12], steps[12:]):
        assert sorted(itertools.chain.from_iterable(itertools.chain.from_iterable(half))) == list(range(96))
    assert steps[:12] != steps[12:]


def test_readers_of_one_pass_share_the_shards_out() -> None:
    shards = [f"{number}.tar" for number in range(23)]
    readers = [Reader(0, 1, 0, rank, 3, worker, 2) for rank in range(3) for worker in range(2)]
    firsts = set()
    for number in range(3):
        dealt = [list(next(itertools.islice(passes(shards, each, resampled=False), number, None))) for each in readers]
        assert sorted(itertools.chain.from_iterable(dealt)) == sorted(shards)
        assert {len(share) for share in dealt} == {3, 4}
        firsts.add(tuple(dealt[0]))
    assert len(firsts) == 3


def test_with_replacement_each_reader_draws_for_itself_and_evenly() -> None:
    shards = [f"{number}.tar" for number in range(10)]
    draws = [
        list(itertools.islice(next(passes(shards, Reader(0, 1, 0, rank, 2, 0, 1), resampled=True)), 2000))
        for rank in (0, 1)
    ]
    assert draws[0] != draws[1]
    assert len(set(draws[0][:10])) < 10
    assert all(140 < count < 260 for count in Counter(draws[0]).values())


def test_a_shard_is_drawn_as_often_as_its_sources_factor_says(tmp_path: Path) -> None:
    for source in ("few", "many"):
        (tmp_path / source).mkdir()
    few, many = write_shards(tmp_path / "few", shards=2, pairs=4), write_shards(tmp_path / "many", shards=6, pairs=4)
    both = {"dataset_resampled": True, "train_data_upsampling_factors": "9::1"}
    with loading(spec(f"{few}::{many}", samples=16, batch_size=4, **both)) as loader:
        pairs = loader.source.pairs
    assert isinstance(pairs, Shards)
    shards, weights = pairs.paths, pairs.weights
    assert weights == [9.0] * 2 + [1.0] * 6
    drawn = passes(shards, Reader(0, 1, 0, 0, 1, 0, 1), resampled=True, weights=weights)
    counts = Counter(Path(shard).parent.name for shard in itertools.islice(next(drawn), 2400))
    assert counts["few"] == pytest.approx(2400 * 18 / 24, rel=0.05)


@pytest.mark.parametrize("workers", [0, 2])
def test_several_sources_are_resumed_where_they_were(tmp_path: Path, workers: int) -> None:
    for source in ("a", "b"):
        (tmp_path / source).mkdir()
    a, b = write_shards(tmp_path / "a", shards=3, pairs=8), write_shards(tmp_path / "b", shards=3, pairs=8)
    data = {"dataset_resampled": True, "train_data_upsampling_factors": "1::3"}
    train = spec(f"{a}::{b}", samples=64, batch_size=8, **data)
    with loading(train, workers=workers) as loader:
        whole = numbers(loader, 2)
    with loading(train, workers=workers) as resumed:
        assert numbers(resumed, 2, 5) == whole[5:]
    alike = spec(f"{a}::{b}", samples=64, batch_size=8, dataset_resampled=True)
    with loading(alike, workers=workers) as loader:
        assert numbers(loader, 2) != whole


def test_sources_without_factors_are_one_set(tmp_path: Path) -> None:
    for source in ("a", "b"):
        (tmp_path / source).mkdir()
    a, b = write_shards(tmp_path / "a", shards=2, pairs=8), write_shards(tmp_path / "b", shards=2, pairs=8)
    with loading(spec(f"{a}::{b}", samples=32, batch_size=8)) as loader:
        assert sorted(itertools.chain.from_iterable(texts(loader, 1))) == sorted([*range(16), *range(16)])


def test_the_formula_behind_all_seeds_never_changes() -> None:
    """A run that is resumed by a later version must go on with the data it had."""
    assert seed_for(0, 1, 0, "shards", 0) == 4488935350740072115
    assert Reader(7, 75, 0, 383, 384, 5, 6).seed_for("augment", 1254) == 5138722454083646857


@pytest.mark.parametrize("workers", [0, 2])
def test_the_models_random_numbers_are_left_alone(pattern: str, workers: int) -> None:
    before = torch.get_rng_state(), random.getstate()
    with loading(spec(pattern, samples=32, batch_size=8), workers=workers) as loader:
        numbers(loader, 1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_fewer_shards_than_readers_are_refused_at_once(pattern: str) -> None:
    refused = pytest.raises(DataError, match="8 shards for 3 ranks with 3 workers each")
    with refused, loading(spec(pattern, samples=96, batch_size=4), ranks=3, workers=3):
        pass
