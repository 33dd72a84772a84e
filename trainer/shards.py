"""Samples out of webdataset shards, and a count of what in them cannot be used.

Nothing here decodes: a sample is the bytes of its members. Damage never ends the reading of other shards; it is
counted by shard, told once in the log, and the loop gives up when too much of all ranks' data is bad.
"""

from __future__ import annotations

import logging
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import braceexpand
from webdataset.tariterators import group_by_keys, tar_file_iterator

from trainer.contract import BETWEEN_SOURCES
from trainer.members import IMAGE_SUFFIXES, TEXT_SUFFIX, ends_well
from trainer.safety import why_left_out
from trainer.streams import Stream
from trainer.unusable import Unusable

log = logging.getLogger(__name__)

FRUITLESS_SHARDS = 100  # in a row without one pair: not damage, a wrong path or a dead file system

UNREADABLE = (OSError, tarfile.TarError, zlib.error, EOFError)


class DataError(Unusable):
    """The data cannot be trained on; one line that says which and why."""


@dataclass(frozen=True)
class Pair:
    shard: str  # the file that is told where it cannot be used
    image: bytes | Path  # encoded, or where
    text: bytes


@dataclass
class Tally:
    """What a reader met since it was last asked."""

    seen: int = 0  # samples, usable or not
    bad: Counter[str] = field(default_factory=Counter)  # by shard; a lost tail or a whole shard counts as one sample
    cut: str = ""  # the shard whose tail was lost last
    fruitless: int = 0  # shards in a row without a pair
    told: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)  # of the shard that is read: sound samples, by why
    told_left_out: set[str] = field(default_factory=set)

    def reject(self, shard: str, reason: object) -> None:
        self.bad[shard] += 1
        if shard not in self.told:
            self.told.add(shard)
            log.warning("%s: %s (more of this shard is only counted)", shard, reason)

    def lose_tail(self, shard: str, reason: object) -> None:
        self.seen += 1
        self.cut = shard
        self.reject(shard, reason)

    def end(self, shard: str, found: int) -> None:
        """A shard has been read to its end and gave `found` pairs. DataError: so many in a row gave none."""
        why = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        self.left_out.clear()
        if why and shard not in self.told_left_out:
            self.told_left_out.add(shard)
            log.warning("%s: left out %s (told once)", shard, why)
        self.fruitless = 0 if found else self.fruitless + 1
        if self.fruitless == FRUITLESS_SHARDS:
            told = f"{FRUITLESS_SHARDS} shards in a row gave no image-text pair, at last {shard}"
            raise DataError(told + (f", left out of it: {why}" if why else ""))

    def take(self) -> tuple[Mapping[str, int], int]:
        """(bad by shard, seen), starting again from zero."""
        taken = dict(self.bad), self.seen
        self.bad, self.seen = Counter(), 0
        return taken


def expand(pattern: str, allowed: Collection[str] = ()) -> list[str]:
    """The paths of a brace pattern, `/data/{00000..23295}.tar`, or of several, `x::y`. Schemes must be allowed."""
    shards = [shard for source in pattern.split(BETWEEN_SOURCES) for shard in braceexpand.braceexpand(source)]
    for shard in shards:
        if (scheme := scheme_of(shard)) and scheme not in allowed:
            raise DataError(f"{shard}: {scheme} is not among train.data.allowed_schemes")
    return shards


def scheme_of(shard: str) -> str:
    """Empty: it is a file."""
    found = re.match(r"(pipe):|([a-zA-Z][\w+.-]*)://", shard)
    return (found[1] or found[2]) if found else ""


def weights(pattern: str, factors: str) -> list[float]:
    """Of each shard that `expand` gives: the factor of its source, as in open_clip, however many shards that has."""
    sources, each = pattern.split(BETWEEN_SOURCES), factors.split(BETWEEN_SOURCES)
    return [
        float(factor) for source, factor in zip(sources, each, strict=True) for _ in braceexpand.braceexpand(source)
    ]


def pairs(shards: Iterable[str], tally: Tally, max_punsafe: float | None = None) -> Iterator[Pair]:
    """All image-text pairs, in the order of the shards; with `max_punsafe` those that are known to be safe."""
    for shard in shards:
        found = 0
        for sample in samples(shard, tally):
            image = image_of(sample)
            if image is None or TEXT_SUFFIX not in sample:
                if tally.cut != shard:  # else the rest of it went with the tail, which is counted
                    tally.reject(shard, f"sample {sample['__key__']} has no {'image' if image is None else 'text'}")
            elif max_punsafe is not None and (reason := why_left_out(sample, max_punsafe)):
                tally.left_out[reason] += 1
            else:
                found += 1
                yield Pair(shard, image, sample[TEXT_SUFFIX])
        tally.end(shard, found)


def image_of(sample: Mapping[str, Any]) -> bytes | None:
    return next((sample[suffix] for suffix in IMAGE_SUFFIXES if suffix in sample), None)


def samples(shard: str, tally: Tally) -> Iterator[Mapping[str, Any]]:
    """webdataset's samples: `__key__`, and the bytes of each member by its lower-case suffix."""

    def twice(error: Exception) -> bool:
        tally.reject(shard, error)
        return True  # leaves out the member, keeps the sample

    for sample in group_by_keys(_members(shard, tally), handler=twice):
        tally.seen += 1
        yield sample


def _members(shard: str, tally: Tally) -> Iterator[Mapping[str, Any]]:
    """The files of an archive up to its end, or up to where it is damaged: behind that, tar has no way to go on."""

    def broken(error: Exception) -> bool:
        tally.lose_tail(shard, error)
        return False  # ends the iteration

    tally.cut = ""
    try:
        with Stream(shard) if scheme_of(shard) else open(shard, "rb") as file:
            for member in tar_file_iterator(file, handler=broken):
                yield {**member, "__url__": shard}
            if not tally.cut and not _complete(shard, file):
                tally.lose_tail(shard, "the archive is cut, or goes on behind a damaged header")
    except UNREADABLE as error:
        if not tally.cut:  # a program's exit code only repeats it
            tally.lose_tail(shard, error)


def _complete(shard: str, file: Any) -> bool:
    """What is compressed has an end of its own."""
    if isinstance(file, Stream):
        return file.ends_well()
    return not shard.endswith(".tar") or ends_well(file)
