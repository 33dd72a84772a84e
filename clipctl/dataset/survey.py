"""One shard after another: counts that add up, and for each kind of trouble the first example."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from clipctl.dataset.archive import Archive, Member, Sample, samples
from clipctl.dataset.headers import image_header
from clipctl.dataset.tags import Tags
from trainer.members import IMAGE_SUFFIXES, JSON_SUFFIX, TEXT_SUFFIX

MOST_WORDS = 200  # characters of an example: what a shard calls its members is up to whoever wrote it


class Trouble(StrEnum):
    """What is wrong, in the words of a report."""

    ARCHIVE = "shards that are cut, damaged or not there"
    IMAGE = "images that cannot be read"
    BOMB = "images too large to be opened"
    CAPTION = "captions that are not UTF-8"
    NO_TEXT = "images without text"
    NO_IMAGE = "texts without image"
    NEITHER = "samples with neither image nor text"
    TWICE = "members that come twice in a sample"
    FORBIDDEN = "members that have no place in a shard"
    STATS = "shards with other samples than their _stats.json says"


NOT_SKIPPED = frozenset({Trouble.FORBIDDEN, Trouble.STATS})  # the trainer reads on without a loss


@dataclass
class Found:
    """All troubles of one kind."""

    count: int
    first: str  # where, and why


@dataclass
class Survey:
    """Of one shard or of many; `bad` and `seen` are what the trainer counts on the way through them."""

    shards: int = 0
    bytes: int = 0  # that were read
    samples: int = 0
    pairs: int = 0  # image and text, usable by all that can be told without decoding
    seen: int = 0  # samples, and each lost tail of an archive as one
    troubles: dict[Trouble, Found] = field(default_factory=dict)
    bad_by_shard: Counter[str] = field(default_factory=Counter)
    empty_captions: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    widths: Counter[int] = field(default_factory=Counter)  # pixels
    heights: Counter[int] = field(default_factory=Counter)
    unreadable_json: int = 0
    tags: Tags = field(default_factory=Tags)
    with_stats: int = 0  # shards that have img2dataset's _stats.json beside them

    @property
    def bad(self) -> int:
        return self.bad_by_shard.total()

    def meet(self, trouble: Trouble, shard: str, example: str) -> None:
        found = self.troubles.setdefault(trouble, Found(0, f"{shard}: {example[:MOST_WORDS]}"))
        found.count += 1
        if trouble not in NOT_SKIPPED:
            self.bad_by_shard[shard] += 1

    def add(self, other: Survey) -> None:
        self.shards += other.shards
        self.bytes += other.bytes
        self.samples += other.samples
        self.pairs += other.pairs
        self.seen += other.seen
        for trouble, found in other.troubles.items():
            self.troubles.setdefault(trouble, Found(0, found.first)).count += found.count
        self.bad_by_shard.update(other.bad_by_shard)
        self.empty_captions += other.empty_captions
        self.formats.update(other.formats)
        self.widths.update(other.widths)
        self.heights.update(other.heights)
        self.unreadable_json += other.unreadable_json
        self.tags.add(other.tags)
        self.with_stats += other.with_stats


def survey(shard: str) -> Survey:
    """All of one shard; every byte of it is read."""
    found = Survey(shards=1)
    archive = Archive(shard)
    for sample in samples(_files(archive, found), lambda name: found.meet(Trouble.TWICE, shard, name)):
        found.samples += 1
        lacking = _lacking(sample)
        if lacking is None:
            _judge(sample, shard, found)
        elif not archive.damage:  # else the rest of it went with the tail, which is counted
            found.meet(lacking, shard, sample.key)
        if JSON_SUFFIX in sample.parts:
            found.unreadable_json += not found.tags.count(sample.parts[JSON_SUFFIX])
    found.seen, found.bytes = found.samples, archive.bytes_read
    if archive.damage:
        found.seen += 1
        found.meet(Trouble.ARCHIVE, shard, archive.damage)
    _compare_with_stats(shard, found)
    return found


def _files(archive: Archive, found: Survey) -> Iterator[Member]:
    for member in archive.members():
        if member.forbidden:
            found.meet(Trouble.FORBIDDEN, archive.path, f"{member.name} is {member.forbidden}")
        yield member


def _image_of(sample: Sample) -> bytes | None:
    return next((sample.parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in sample.parts), None)


def _lacking(sample: Sample) -> Trouble | None:
    if _image_of(sample) is None:
        return Trouble.NO_IMAGE if TEXT_SUFFIX in sample.parts else Trouble.NEITHER
    return None if TEXT_SUFFIX in sample.parts else Trouble.NO_TEXT


def _judge(sample: Sample, shard: str, found: Survey) -> None:
    """A pair, by its image's header and its caption."""
    try:
        header = image_header(_image_of(sample) or b"")
    except ValueError as error:
        return found.meet(Trouble.IMAGE, shard, f"{sample.key}: {error}")
    found.formats[header.format] += 1
    found.widths[header.width] += 1
    found.heights[header.height] += 1
    if header.is_bomb:
        return found.meet(Trouble.BOMB, shard, f"{sample.key} has {header.width} x {header.height} pixels")
    try:
        caption = sample.parts[TEXT_SUFFIX].decode()
    except UnicodeDecodeError as error:
        return found.meet(Trouble.CAPTION, shard, f"{sample.key}: {error}")
    found.pairs += 1
    found.empty_captions += not caption.strip()


def _compare_with_stats(shard: str, found: Survey) -> None:
    """img2dataset writes 00000.tar, 00000.parquet and 00000_stats.json."""
    path = f"{shard.removesuffix('.tar')}_stats.json"
    try:
        with open(path, "rb") as file:
            written = json.load(file)["successes"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return
    if not isinstance(written, int):
        return
    found.with_stats += 1
    if written != found.samples:
        found.meet(Trouble.STATS, shard, f"{found.samples:,} samples, and {os.path.basename(path)} says {written:,}")
