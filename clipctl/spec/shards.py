"""Shard patterns: /data/{00000..23295}.tar as shell and webdataset read it, and nothing that they read differently.

Several sources have `::` between them, as in open_clip.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence

from trainer.contract import BETWEEN_SOURCES

MAX_SHARDS = 1_000_000  # LAION-5B has 231,349 in each of its largest parts
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d{1,9})\.\.(-?\d{1,9})")


def sources(pattern: str) -> list[str]:
    return pattern.split(BETWEEN_SOURCES)


def is_remote(source: str) -> bool:
    """`pipe:` or a URL: webdataset would run it in a shell, or fetch it without anybody knowing what came."""
    return scheme_of(source) != ""


def scheme_of(source: str) -> str:
    """Empty: it is a file's path."""
    found = _SCHEME.match(source)
    return found[0].removesuffix(":") if found else ""


def expand(pattern: str) -> Iterator[str]:
    """Every path of all sources of a pattern, in the shell's order. ValueError says what cannot be meant."""
    return itertools.chain.from_iterable(map(_expanded, sources(pattern)))


def _expanded(pattern: str) -> Iterator[str]:
    *pieces, tail = _GROUP.split(pattern)  # text, inside, text, inside, ..., text
    if "\\" in pattern or any(brace in text for text in (*pieces[::2], tail) for brace in "{}"):
        raise ValueError("must have braces in pairs, not nested, and no backslash")
    groups = [_options(inside) for inside in pieces[1::2]]
    if math.prod(map(len, groups)) > MAX_SHARDS:
        raise ValueError(f"must not name more than {MAX_SHARDS:,} files")
    for chosen in itertools.product(*groups):
        yield "".join(itertools.chain(*zip(pieces[::2], chosen, strict=True), [tail]))


def _options(inside: str) -> Sequence[str] | _Numbers:
    if found := _RANGE.fullmatch(inside):
        return _Numbers(found[1], found[2])
    if "," in inside:
        return inside.split(",")
    raise ValueError(f"must have a range such as {{00000..00099}} or a list such as {{a,b}} where it has {{{inside}}}")


class _Numbers:
    """`000..011` without writing it out before its length was looked at."""

    def __init__(self, first: str, last: str) -> None:
        start, stop = int(first), int(last)
        self.numbers = range(start, stop + 1) if start <= stop else range(start, stop - 1, -1)
        padded = any(re.match(r"-?0\d", text) for text in (first, last))
        self.width = max(len(first), len(last)) if padded else 0

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[str]:
        return (f"{number:0{self.width}d}" for number in self.numbers)
