"""Which shards (or rows) a data-loader worker reads, in which order: a pure function of the numbers in `Reader`.

Nothing here is remembered, so nothing has to be saved: whoever has the same numbers gets the same data.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


def seed_for(*words: int | str) -> int:
    """63 bits: BLAKE2b of the words joined by "/". `hash()` would differ from process to process."""
    digest = hashlib.blake2b("/".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


@dataclass(frozen=True)
class Reader:
    """One worker of one rank in one epoch. With workers = 0 the rank itself is worker 0 of 1."""

    seed: int
    epoch: int  # from 1
    origin: int  # step of the epoch with which the stream began; 0: at its border
    rank: int
    ranks: int
    worker: int
    workers: int

    def seed_for(self, *words: int | str) -> int:
        """Of this reader's own."""
        return seed_for(self.seed, self.epoch, self.origin, self.rank, self.worker, *words)


def passes(
    shards: Sequence[T], reader: Reader, *, resampled: bool, weights: Sequence[float] | None = None
) -> Iterator[Iterable[T]]:
    """What the reader goes through, pass after pass, without end; samples are not mixed across passes.

    resampled: one endless pass of draws with replacement, each reader's own, in proportion to the shards' weights where
    they have some. Otherwise pass n of all readers together
    is one permutation of all shards, dealt like open_clip does: first among ranks, then among workers.
    """
    if resampled:
        yield _draws(shards, reader, weights)
    for number in itertools.count():
        order = list(shards)
        random.Random(seed_for(reader.seed, reader.epoch, reader.origin, "shards", number)).shuffle(order)
        yield order[reader.rank :: reader.ranks][reader.worker :: reader.workers]


def _draws(shards: Sequence[T], reader: Reader, weights: Sequence[float] | None) -> Iterator[T]:
    draw = random.Random(reader.seed_for("shards"))
    bounds = list(itertools.accumulate(weights)) if weights else None
    while True:
        yield draw.choices(shards, cum_weights=bounds)[0] if bounds else draw.choice(shards)
