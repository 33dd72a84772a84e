"""The processes of local jobs, as /proc tells them: those of this user that were started with a job's nonce."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.contract import NONCE_VARIABLE

MARK = f"{NONCE_VARIABLE}=".encode()
PARENT, START = 1, 19  # in /proc/<pid>/stat, counted after the name


@dataclass(frozen=True)
class Process:
    pid: int
    started: int  # clock ticks since boot: with the pid it is one process, the pid alone is given again
    parent: int
    nonce: str


def scan(proc: Path) -> list[Process]:
    """Every live process of this user that carries a nonce, eldest first. OSError: there is no /proc to read."""
    own = (int(entry.name) for entry in os.scandir(proc) if entry.name.isdigit())
    found = (process for process in (look(proc, pid) for pid in own) if process)
    return sorted(found, key=lambda process: (process.started, process.pid))


def look(proc: Path, pid: int) -> Process | None:
    """None: gone, a zombie (its environment is empty), another user's, or of no job."""
    folder = proc / str(pid)
    try:
        if folder.stat().st_uid != os.getuid():
            return None
        nonce = next(_nonces((folder / "environ").read_bytes()), None)
        # The name may hold spaces and brackets; nothing after its last bracket does.
        stat = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split() if nonce else []
    except OSError:
        return None
    return Process(pid, int(stat[START]), int(stat[PARENT]), nonce) if nonce else None


def roots(processes: list[Process]) -> list[Process]:
    """Those whose parent is none of them: the script; where it was killed, what it has left behind."""
    pids = {process.pid for process in processes}
    return [process for process in processes if process.parent not in pids]


def send(proc: Path, process: Process, number: signal.Signals) -> None:
    """Signals this very process, or nothing where its pid has been given to another one since."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        now = look(proc, process.pid)  # asked while the handle holds on to whatever has the pid
        if now and (now.started, now.nonce) == (process.started, process.nonce):
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def boot_time(proc: Path) -> float:
    """Seconds since 1970."""
    line = next(line for line in (proc / "stat").read_text().splitlines() if line.startswith("btime "))
    return float(line.split()[1])


def _nonces(environ: bytes) -> Iterator[str]:
    for item in environ.split(b"\0"):
        if item.startswith(MARK):
            yield item[len(MARK) :].decode(errors="replace")
