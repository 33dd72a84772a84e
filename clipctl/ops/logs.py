"""What the processes of one attempt printed, line by line, as long as somebody wants to read on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from clipctl.errors import NotFound
from clipctl.joblogs import log_files, rank_log, read_lines
from clipctl.journal import Files, LocalFiles
from clipctl.layout import JobFolder, RunFolder
from clipctl.ops.clock import Clock
from clipctl.store import JobRecord, views

INTERVAL = 0.3  # seconds between two looks


class Line(NamedTuple):
    log: str  # script.log, rank_0.log
    text: str


def job_of(home: Path, run: str, attempt: int | None) -> JobRecord:
    """The newest job of an attempt, or of the run. NotFound: no such run or attempt."""
    with views.reading(home) as connection:
        known = connection is not None and views.run(connection, run) is not None
        jobs = views.jobs(connection, run) if connection is not None else ()
    if not known:
        raise NotFound(f"there is no run {run!r}", hint="clipctl status --all")
    wanted = [job for job in jobs if attempt in (None, job.identity.attempt)]
    if not wanted:
        raise NotFound(f"run '{run}' has no attempt {attempt}", hint=f"clipctl show {run}")
    return wanted[-1]


def lines(
    job: JobRecord, *, rank: int | None, alive: Callable[[], bool] | None, clock: Clock, files: Files | None = None
) -> Iterator[Line]:
    """All there is; with `alive`, also what comes until it says no. NotFound: nothing was printed."""
    files = files or LocalFiles()
    folder = RunFolder(job.folder).job(job.identity.nonce)
    offsets: dict[Path, int] = {}
    while True:
        last = alive is None or not alive()  # asked before reading: what was printed before the end is still shown
        for path in _wanted(files, folder, rank):
            yield from _new(files, path, offsets, last)
        if last:
            break
        clock.sleep(INTERVAL)
    if not offsets:
        names = ", ".join(path.name for path in log_files(files, folder)) or "none"
        raise NotFound(f"there is no such log of attempt {job.identity.attempt}", hint=f"ls {folder.logs} ({names})")


def _wanted(files: Files, folder: JobFolder, rank: int | None) -> tuple[Path, ...]:
    """The script's and rank 0's, or that of one rank."""
    if rank is not None:
        return tuple(path for path in log_files(files, folder) if path == rank_log(folder, rank))
    return log_files(files, folder)[:2]


def _new(files: Files, path: Path, offsets: dict[Path, int], last: bool) -> Iterator[Line]:
    offset = offsets.get(path, 0)
    while True:
        found, end = read_lines(files, path, offset, to_the_end=last)
        offsets[path] = end
        if end == offset:
            return
        yield from (Line(path.name, text) for text in found)
        offset = end
