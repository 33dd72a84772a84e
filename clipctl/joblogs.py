"""What a job's processes printed: which files there are, and their ends. Untrusted text, of any size and encoding."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from clipctl.journal import Files
from clipctl.layout import JobFolder

SCRIPT_LOG = "script.log"
_RANK_LOG = re.compile(r"rank_(\d+)\.log")
_LEFT = re.compile(r"^rank (\d+) |^srun: error: \S+: tasks? (\d+)")
_TAIL_BYTES = 64 << 10
_CHUNK = 1 << 20


def log_files(files: Files, folder: JobFolder) -> tuple[Path, ...]:
    """The script's first, then the ranks' in their order."""
    ranks = {int(found[1]): name for name in files.scandir(folder.logs) if (found := _RANK_LOG.fullmatch(name))}
    script = [SCRIPT_LOG] if SCRIPT_LOG in files.scandir(folder.logs) else []
    return tuple(folder.logs / name for name in [*script, *(ranks[rank] for rank in sorted(ranks))])


def rank_log(folder: JobFolder, rank: int) -> Path:
    return folder.logs / f"rank_{rank}.log"


def first_to_leave(script: Iterable[str]) -> int | None:
    """The rank that a script's log names first, by our own launcher's words or srun's; None: it names none."""
    found = next(filter(None, map(_LEFT.search, script)), None)
    return int(found[1] or found[2]) if found else None


def tail(files: Files, path: Path, wanted: int) -> tuple[str, ...]:
    """The last `wanted` lines that are not empty; none where there is no file."""
    found = files.stat(path)
    if found is None or not found.regular:
        return ()
    lines, _ = read_lines(files, path, max(0, found.size - _TAIL_BYTES), to_the_end=True)
    return tuple(line for line in lines if line.strip())[-wanted:]


def read_lines(files: Files, path: Path, offset: int, *, to_the_end: bool = False) -> tuple[list[str], int]:
    """Lines from `offset` on, at most a mebibyte of them, made printable, and where they end.

    The last one is left for later while it has no newline, except `to_the_end`. A file that is not there is empty.
    """
    try:
        data = files.read(path, offset, _CHUNK)
    except FileNotFoundError:
        return [], offset
    if not to_the_end and len(data) < _CHUNK:
        data = data[: data.rfind(b"\n") + 1]
    return printable(data.decode("utf-8", errors="replace")).splitlines(), offset + len(data)


def printable(text: str) -> str:
    """Without what a terminal would obey: escape sequences and control characters but newline and tab."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _CONTROLS.sub("", text)


# CSI, OSC (up to BEL or ST) and two-character sequences; then C0, DEL and C1 that are left
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
