"""What the pairs of a training set come from: webdataset shards, a csv file, or one black image.

Each gives a reader its endless stream of pairs, as a function of `Reader` alone.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image
from webdataset import filters

from trainer.contract import Data, DatasetType, Separator
from trainer.order import Reader, passes
from trainer.shards import DataError, Pair, Tally, expand, pairs, weights

SHUFFLE_BUFFER, SHUFFLE_INITIAL = 5000, 1000  # samples; open_clip's
CAPTION, BLACK_SIDE = b"Dummy caption", 224  # open_clip's; its image has the model's size, to which this one is resized


class PairSet(Protocol):
    def lacks(self, readers: int) -> str | None:
        """That there is less than one part for each reader, in words; None: there is enough."""

    def stream(self, reader: Reader, tally: Tally) -> Iterator[Pair]: ...


@dataclass(frozen=True)
class Shards:
    """Of a webdataset: shards are shared out, and samples shuffled in a buffer."""

    data: Data
    paths: list[str]
    weights: list[float] | None  # None: all alike

    @classmethod
    def of(cls, data: Data) -> Shards:
        factors = data.train_data_upsampling_factors
        shards = expand(data.train_data, data.allowed_schemes)
        return cls(data, shards, weights(data.train_data, factors) if factors else None)

    def lacks(self, readers: int) -> str | None:
        count = len(self.paths)
        return f"{count} shards" if not self.data.dataset_resampled and count < readers else None

    def stream(self, reader: Reader, tally: Tally) -> Iterator[Pair]:
        rng = random.Random(reader.seed_for("samples"))
        shuffle = filters.shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_INITIAL, rng=rng)
        for shards in passes(self.paths, reader, resampled=self.data.dataset_resampled, weights=self.weights):
            yield from shuffle(pairs(shards, tally, self.data.max_punsafe))


@dataclass(frozen=True)
class Rows:
    """Of a csv file: rows are shared out, in a permutation of all of them each pass. Images are opened when decoded."""

    data: Data
    rows: list[tuple[str, str]]  # path, relative to the file's folder where it is not absolute, and caption

    @classmethod
    def of(cls, data: Data) -> Rows:
        rows = list(_rows(data))
        if not rows:
            raise DataError(f"{data.train_data}: has no rows")
        return cls(data, rows)

    def lacks(self, readers: int) -> str | None:
        count = len(self.rows)
        return f"{count} rows" if not self.data.dataset_resampled and count < readers else None

    def stream(self, reader: Reader, tally: Tally) -> Iterator[Pair]:
        folder = Path(self.data.train_data).parent
        for numbers in passes(range(len(self.rows)), reader, resampled=self.data.dataset_resampled):
            for number in numbers:
                tally.seen += 1
                path, caption = self.rows[number]
                yield Pair(self.data.train_data, folder / path, caption.encode(errors="surrogateescape"))


def _rows(data: Data) -> Iterator[tuple[str, str]]:
    file, wanted = data.train_data, (data.csv_img_key, data.csv_caption_key)
    delimiter = "\t" if data.csv_separator is Separator.TAB else data.csv_separator
    try:
        # Bytes that are no UTF-8 stay what they are: it is their sample that cannot be used.
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter, restval="")
            known = reader.fieldnames or ()
            if absent := [key for key in wanted if key not in known]:
                there = f"there are {', '.join(known)}" if known else "it is empty"
                hint = "train.data.csv_img_key, csv_caption_key and csv_separator say how it is read"
                raise DataError(f"{file}: no column {' and no '.join(absent)}; {there} ({hint})")
            yield from ((row[wanted[0]], row[wanted[1]]) for row in reader)
    except (OSError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as csv: {error}") from error


@dataclass(frozen=True)
class Synthetic:
    """One black image with one caption, without end: what training costs without data."""

    pair: Pair

    @classmethod
    def of(cls, _: Data) -> Synthetic:
        image = io.BytesIO()
        Image.new("RGB", (BLACK_SIDE, BLACK_SIDE)).save(image, "PNG")
        return cls(Pair("synthetic", image.getvalue(), CAPTION))

    def lacks(self, _: int) -> None:
        return None

    def stream(self, _: Reader, tally: Tally) -> Iterator[Pair]:
        while True:
            tally.seen += 1
            yield self.pair


SETS: Mapping[DatasetType, Callable[[Data], PairSet]] = {
    DatasetType.WEBDATASET: Shards.of,
    DatasetType.CSV: Rows.of,
    DatasetType.SYNTHETIC: Synthetic.of,
}


def pair_set(data: Data) -> PairSet:
    """DataError: what it names cannot be read."""
    return SETS[data.dataset_type](data)
