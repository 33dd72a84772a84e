"""The members of a shard and the samples they make, as the trainer's webdataset reads them. Nothing is extracted.

The trainer's own reader needs the train extra; that both count the same is held by a test.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO

from trainer.members import ends_well

UNREADABLE = (OSError, tarfile.TarError, zlib.error, EOFError, ValueError, OverflowError)
_META = re.compile(r"__[^/]*__($|/)")  # members that webdataset leaves out
_KEY_AND_SUFFIX = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")


@dataclass(frozen=True)
class Member:
    name: str
    content: bytes | None  # None: nothing that is read
    forbidden: str = ""  # why it should not be in a shard


@dataclass
class Sample:
    key: str
    parts: dict[str, bytes] = field(default_factory=dict)  # by lower-case suffix


class Archive:
    """One pass over a shard. When `members` has ended, `damage` says why it did so early, and `bytes_read` how far."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.damage = ""
        self.bytes_read = 0

    def members(self) -> Iterator[Member]:
        """All up to the archive's end, or up to where it is damaged: behind that, tar has no way to go on."""
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # to open a pipe would wait for ever
                raise OSError("it is no file")
            with open(self.path, "rb") as file:
                try:
                    yield from _members(file)
                    if self.path.endswith(".tar") and not ends_well(file):
                        self.damage = "it is cut, or goes on behind a damaged header"
                finally:
                    self.bytes_read = file.tell()
        except UNREADABLE as error:
            self.damage = getattr(error, "strerror", None) or str(error)


def _members(file: IO[bytes]) -> Iterator[Member]:
    archive = tarfile.open(fileobj=file, mode="r|*")  # noqa: SIM115 - nothing of it outlives the file
    for header in archive:
        archive.members = []  # type: ignore[attr-defined]  # or it would remember all of them
        forbidden = _forbidden(header)
        if header.isreg() and not header.issparse() and not _META.match(header.name):
            content = archive.extractfile(header)
            yield Member(header.name, content.read() if content else None, forbidden)
        elif forbidden:
            yield Member(header.name, None, forbidden)


def _forbidden(header: tarfile.TarInfo) -> str:
    """Harmless to a reader that extracts nothing, but nobody who writes pairs writes these."""
    if header.name.startswith("/"):
        return "an absolute path"
    if ".." in header.name.split("/"):
        return "a path with .."
    if header.issym() or header.islnk():
        return f"a link to {header.linkname}"
    if header.isdev():
        return "a device or pipe"
    if header.issparse():
        return f"a sparse file: {header.size:,} bytes of which most are not there"
    return ""


def samples(members: Iterable[Member], twice: Callable[[str], None]) -> Iterator[Sample]:
    """Members with the same key side by side are one sample. `twice` is told of a suffix that was there: the first
    one is kept."""
    sample: Sample | None = None
    for member in members:
        found = _KEY_AND_SUFFIX.match(member.name)
        if found is None or member.content is None:
            continue
        key, suffix = found[1], found[2].lower()
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = Sample(key)
        if suffix in sample.parts:
            twice(member.name)
        else:
            sample.parts[suffix] = member.content
    if sample is not None:
        yield sample
