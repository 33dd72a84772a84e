"""Training data that is no shard: a csv file of paths and captions, and open_clip's synthetic pair."""

from __future__ import annotations

import csv
import itertools
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.shard_files import loading, numbers, png, spec, texts
from trainer.compose import open_image
from trainer.contract import Data, DatasetType, Separator
from trainer.order import Reader
from trainer.sets import pair_set
from trainer.shards import DataError, Tally

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores


def write_csv(folder: Path, rows: int, delimiter: str = "\t", keys: tuple[str, str] = ("filepath", "title")) -> str:
    """Row n is picture n; its path is relative to the file, or absolute where n is odd."""
    (folder / "images").mkdir()
    with open(folder / "pairs.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerow(["number", *keys])
        for number in range(rows):
            path = folder / f"images/{number}.png"
            path.write_bytes(png(number))
            caption = f"one{delimiter}two \N{GREEK SMALL LETTER ALPHA}\npicture {number}"
            table.writerow([number, path if number % 2 else path.relative_to(folder), caption])
    return str(folder / "pairs.csv")


CSV = {"dataset_type": DatasetType.CSV}


@pytest.mark.parametrize("workers", [0, 2])
def test_every_row_comes_once_before_any_comes_again(tmp_path: Path, workers: int) -> None:
    train = spec(write_csv(tmp_path, 48), samples=96, batch_size=4, **CSV)
    ranks = []
    for rank in (0, 1):
        with loading(train, rank=rank, ranks=2, workers=workers) as loader:
            ranks.append(texts(loader, 1))
            batch = next(iter(loader.batches(2)))
        assert batch.images[:, 0, 0, 0].int().tolist() == batch.texts.flatten().tolist(), "image and caption belong"
    steps = list(zip(*ranks, strict=True))
    for half in (steps[:6], steps[6:]):
        assert sorted(itertools.chain.from_iterable(itertools.chain.from_iterable(half))) == list(range(48))
    assert steps[:6] != steps[6:]


@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_goes_on_with_the_next_rows_and_opens_no_image_before_them(
    tmp_path: Path, workers: int, resampled: bool
) -> None:
    train = spec(write_csv(tmp_path, 64), samples=64, batch_size=4, dataset_resampled=resampled, **CSV)
    with loading(train, workers=workers) as loader:
        whole = numbers(loader, 2)
    later = {number for batch in whole[6:] for number in batch[1]}
    for number in set(range(64)) - later:
        (tmp_path / f"images/{number}.png").unlink()
    with loading(train, workers=workers) as resumed:
        assert numbers(resumed, 2, 6) == whole[6:]


def test_an_image_that_cannot_be_read_is_replaced_in_its_batch_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_csv(tmp_path, 16)
    train = spec(file, samples=16, batch_size=4, **CSV)
    with loading(train) as loader:
        sound = texts(loader, 1)
    (tmp_path / "images/5.png").unlink()
    (tmp_path / "images/6.png").write_bytes(png(6)[:40])
    with loading(train) as loader, caplog.at_level(logging.WARNING):
        batches = list(loader.batches(1))
    assert sum(batch.bad.get(file, 0) for batch in batches) == 2
    assert sum(batch.seen for batch in batches) == 16
    for before, batch in zip(sound, batches, strict=True):
        after = batch.texts.flatten().tolist()
        assert [old for old, new in zip(before, after, strict=True) if old != new] == [n for n in before if n in (5, 6)]
    (told,) = [record.getMessage() for record in caplog.records]
    assert str(tmp_path / "images") in told


@pytest.mark.parametrize("separator", list(Separator))
def test_separator_and_columns_are_the_specs(tmp_path: Path, separator: Separator) -> None:
    delimiter = "\t" if separator is Separator.TAB else separator.value
    data = CSV | {"csv_separator": separator, "csv_img_key": "image", "csv_caption_key": "text"}
    train = spec(write_csv(tmp_path, 8, delimiter, ("image", "text")), samples=8, batch_size=4, **data)
    with loading(train) as loader:
        assert sorted(itertools.chain.from_iterable(texts(loader, 1))) == list(range(8))


@pytest.mark.parametrize(
    ("content", "changes", "told"),
    [
        ("filepath\ttitle\n", {}, r"pairs.csv: has no rows"),
        ("", {}, r"pairs.csv: no column filepath and no title; it is empty"),
        (
            "filepath,title\na.png,a\n",
            {},
            r"no column filepath and no title; there are filepath,title \(train.",
        ),
        ("url\ttitle\na.png\ta\n", {}, r"no column filepath; there are url, title"),
        ("filepath\ttitle\na.png\ta\n", {"ranks": 2}, r"pairs.csv: 1 rows for 2 ranks with 1 workers each"),
        (None, {}, r"pairs.csv: cannot be read as csv: .*No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, content: str | None, changes: dict[str, Any], told: str
) -> None:
    if content is not None:
        (tmp_path / "pairs.csv").write_text(content)
    train = spec(str(tmp_path / "pairs.csv"), samples=8, batch_size=4, **CSV)
    with pytest.raises(DataError, match=told) as raised, loading(train, **changes):
        pass
    assert "\n" not in str(raised.value)


def test_synthetic_data_is_one_pair_without_end_and_reads_nothing() -> None:
    pairs = pair_set(Data(train_data="/nowhere.tar", train_num_samples=1, dataset_type=DatasetType.SYNTHETIC))
    tally = Tally()
    drawn = list(itertools.islice(pairs.stream(Reader(0, 1, 0, 383, 384, 5, 6), tally), 100))
    assert len(set(drawn)) == 1
    assert (drawn[0].text, tally.seen, tally.bad) == (b"Dummy caption", 100, {})
    assert open_image(drawn[0].image).getextrema() == ((0, 0), (0, 0), (0, 0)), "black"
