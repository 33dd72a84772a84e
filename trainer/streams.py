"""Shards that are no files: what webdataset's opener reads of them, by the schemes that a spec allows.

http and https go through curl, `pipe:` through a shell, `pipe:aws s3 cp s3://bucket/0.tar -`. What does not arrive is
counted as damage of its shard, as if a file were cut there.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from webdataset.gopen import gopen, set_options

from trainer.members import TAR_BLOCK


class Stream:
    """For `with`; what tarfile reads of it, in one direction."""

    def __init__(self, shard: str) -> None:
        self._pipe: Any = gopen(shard, "rb")
        set_options(self._pipe, ignore_errors=True)  # until all that came is read: its program may have left long ago
        self._head = self._tail = b""

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._pipe.read(size)
        self._head = self._head or content[:TAR_BLOCK]
        self._tail = (self._tail + content)[-TAR_BLOCK:]
        return content

    def ends_well(self) -> bool:
        """As trainer.members.ends_well, of what cannot be read twice. What is compressed has an end of its own."""
        if self._head[257:262] != b"ustar":
            return True
        while rest := self.read(1 << 20):
            if rest.strip(b"\0"):
                return False
        return not self._tail.strip(b"\0")

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """OSError: its program failed."""
        set_options(self._pipe, ignore_errors=False)
        self._pipe.close()
