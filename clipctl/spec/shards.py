"""Shard patterns: /data/{00000..23295}.tar as the shell and webdataset read it."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_SHARDS = 1_000_000  # LAION-5B has 231,349 in all
_INNERMOST = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?|([A-Za-z])\.\.([A-Za-z])")


def expand(pattern: str) -> Iterator[str]:
    """Every path of a pattern. ValueError: unbalanced braces, or more than `MAX_SHARDS` paths."""
    if pattern.count("{") != pattern.count("}"):
        raise ValueError("its braces do not pair")
    for count, path in enumerate(_expand(pattern, 0)):
        if count == MAX_SHARDS:
            raise ValueError(f"names more than {MAX_SHARDS:,} files")
        yield path


def _expand(pattern: str, start: int) -> Iterator[str]:
    found = _INNERMOST.search(pattern, start)
    if found is None:
        yield pattern
        return
    options = _options(found.group(1))
    if options is None:  # {x}: the shell leaves it as it is
        yield from _expand(pattern, found.end())
        return
    for option in options:
        yield from _expand(pattern[: found.start()] + option + pattern[found.end() :], 0 if start == 0 else start)


def _options(inside: str) -> Iterator[str] | None:
    if found := _RANGE.fullmatch(inside):
        return _letters(found) if found[4] else _numbers(found)
    return iter(inside.split(",")) if "," in inside else None


def _numbers(found: re.Match[str]) -> Iterator[str]:
    first, last = int(found[1]), int(found[2])
    step = abs(int(found[3] or 1)) or 1
    padded = any(re.match(r"-?0\d", found[group]) for group in (1, 2))
    width = max(len(found[1]), len(found[2])) if padded else 0
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return (f"{number:0{width}d}" for number in numbers)


def _letters(found: re.Match[str]) -> Iterator[str]:
    first, last = ord(found[4]), ord(found[5])
    return map(chr, range(first, last + 1) if first <= last else range(first, last - 1, -1))
