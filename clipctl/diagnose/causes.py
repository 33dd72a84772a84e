"""What an error's text gives away: storage, memory, data, a node. A log's is believed last: it may print anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clipctl.domain import Form, IncidentKind

# ENOSPC, EDQUOT, EROFS; EIO, ESTALE: in Python's words. Then torch's, which swallows the errno
_FULL = re.compile(
    r"No space left on device|Disk quota exceeded|Read-only file system|\[Errno (28|30|122)\]"
    r"|PytorchStreamWriter failed|iostream error"
)
_FAULTY = re.compile(r"Input/output error|Stale (NFS )?file handle|\[Errno (5|116)\]")
_GPU_MEMORY = re.compile(r"(CUDA|HIP|NCCL).{0,40}out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED")
_HOST_MEMORY = re.compile(
    r"oom[-_ ]kill|MemoryError|Cannot allocate memory|DefaultCPUAllocator|DataLoader worker .{0,40}killed by signal"
)
_BAD_DATA = re.compile(  # the trainer's own words
    r"samples cannot be used|shards in a row gave no image-text pair|a batch without one usable sample"
)

# A rank that only heard of another one's end: of gloo, NCCL, or a socket
_CONSEQUENCE = re.compile(
    r"rank is gone|has left|Connection (reset|closed|refused)|Broken pipe|NCCL|[Gg]loo|did not come"
)

# srun's words, at the start of a line
_NODE = re.compile(r"srun: error: (?:Task launch for StepId=\S+ failed on node|Node failure on) ([^\s:]+)")


@dataclass(frozen=True)
class Cause:
    kind: IncidentKind
    detail: str
    form: Form | None = None
    passes: bool = True  # as of an Incident
    nodes: tuple[str, ...] = ()  # as of an Incident


HOST_MEMORY = Cause(IncidentKind.OUT_OF_MEMORY, "a node's memory was used up", Form.HOST_MEMORY)
GPU_MEMORY = Cause(IncidentKind.OUT_OF_MEMORY, "a GPU's memory was used up", Form.GPU_MEMORY)


def cause(text: str) -> Cause | None:
    """None: it gives away nothing."""
    if _GPU_MEMORY.search(text):
        return GPU_MEMORY
    if _HOST_MEMORY.search(text):
        return HOST_MEMORY
    if _FULL.search(text) or _FAULTY.search(text):
        return Cause(IncidentKind.STORAGE, text.strip(), passes=_FULL.search(text) is None)
    if _BAD_DATA.search(text):
        return Cause(IncidentKind.BAD_DATA, text.strip(), passes=False)
    return None


def nodes_named(lines: Iterable[str]) -> tuple[str, ...]:
    """By srun, as those where it could not start ranks, or that are gone. In order, each once."""
    return tuple(dict.fromkeys(found[1] for line in lines if (found := _NODE.match(line)) is not None))


def first_cause(lines: Sequence[str]) -> Cause | None:
    """The oldest line's: what comes after it follows from it. First of all a node's that srun names."""
    if nodes := nodes_named(lines):
        return Cause(IncidentKind.NODE_FAILED, f"srun lost, or could not reach, {', '.join(nodes)}", nodes=nodes)
    return next((found for line in lines if (found := cause(line)) is not None), None)


def follows(error: str) -> bool:
    """Whether an error may be what another rank's end looks like from this one."""
    return _CONSEQUENCE.search(error) is not None
