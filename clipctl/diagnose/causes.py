"""What an error's text gives away: storage, or memory. Of a log the last resort, as anybody may print anything."""

from __future__ import annotations

import re
from collections.abc import Iterable

from clipctl.domain import IncidentKind

# ENOSPC, EDQUOT, EIO, ESTALE and EROFS in Python's words; then torch's, which swallows the errno
_STORAGE = re.compile(
    r"No space left on device|Disk quota exceeded|Input/output error|Stale (NFS )?file handle|Read-only file system"
    r"|\[Errno (5|28|30|116|122)\]|PytorchStreamWriter failed|iostream error"
)
_GPU_MEMORY = re.compile(r"(CUDA|HIP|NCCL).{0,40}out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED")
_HOST_MEMORY = re.compile(
    r"oom[-_ ]kill|MemoryError|Cannot allocate memory|DefaultCPUAllocator|DataLoader worker .{0,40}killed by signal"
)


def cause(text: str) -> tuple[IncidentKind, str] | None:
    """None: it gives away neither."""
    if _GPU_MEMORY.search(text):
        return IncidentKind.OUT_OF_MEMORY, "a GPU's memory was used up"
    if _HOST_MEMORY.search(text):
        return IncidentKind.OUT_OF_MEMORY, "a node's memory was used up"
    if _STORAGE.search(text):
        return IncidentKind.STORAGE, text.strip()
    return None


def first_cause(lines: Iterable[str]) -> tuple[IncidentKind, str] | None:
    """The oldest line's: what comes after it follows from it."""
    return next((found for line in lines if (found := cause(line)) is not None), None)
