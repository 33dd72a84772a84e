"""Processes of an emulated cluster: started with its mark, found by it, ended by their ids."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

MARK = "CLIPCTL_TEST_CLUSTER"  # in the environment of every daemon: the cluster's folder
PROC = Path("/proc")
PROGRAMS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def start(command: list[str], folder: Path, log: str, more: Mapping[str, str]) -> int:
    """A daemon in the foreground of a session of its own; its pid. It sees nothing of the caller's environment."""
    program = shutil.which(command[0], path=PROGRAMS)
    assert program is not None, command[0]
    plain = {name: os.environ[name] for name in ("HOME", "USER", "LANG") if name in os.environ}
    output = os.open(folder / "log" / log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        return os.posix_spawn(
            program,
            command,
            {"PATH": PROGRAMS, MARK: str(folder), **plain, **more},
            file_actions=[(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)],
            setsid=True,
        )
    finally:
        os.close(output)


def of_cluster(folder: Path) -> set[int]:
    """All daemons of the cluster, and whatever they have started: steps, scripts, ranks."""
    mark = f"{MARK}={folder}\0".encode()
    roots = {pid for pid in _pids() if mark in _read(pid, "environ")} | set(_steps(folder))
    return roots | descendants(roots)


def of_node(folder: Path, node: str) -> set[int]:
    """The steps of one node and all that they have started; its slurmd is left out."""
    log = folder / "log" / f"{node}.log"
    steps = {pid for pid in _steps(folder) if log in _open_files(pid)}
    return steps | descendants(steps)


def _steps(folder: Path) -> list[int]:
    """Every slurmstepd. It hides its environment behind a title and has no parent, but its node's log open."""
    steps = (pid for pid in _pids() if _read(pid, "comm") == b"slurmstepd\n")
    return [pid for pid in steps if any(file.parent == folder / "log" for file in _open_files(pid))]


def descendants(roots: Iterable[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid in _pids():
        children.setdefault(parent(pid), []).append(pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def end(pids: Iterable[int]) -> None:
    for pid in pids:
        send(pid, signal.SIGKILL)


def end_all(folder: Path, seconds: float = 20.0) -> None:
    """Until none is left: a step may start a process while it is being ended."""
    deadline = time.monotonic() + seconds
    while left := of_cluster(folder):
        end(left)
        _reap(left)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of {folder} do not die: {sorted(left)}")
        time.sleep(0.02)


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def is_alive(pid: int, started: str) -> bool:
    return started != "" and start_time(pid) == started


def start_time(pid: int) -> str:
    """With the pid it is one process; empty: there is none."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return fields[19].decode() if len(fields) > 19 and fields[0] != b"Z" else ""


def parent(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _reap(pids: Iterable[int]) -> None:
    """Those that this very process has started."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(PROC) if name.isdigit()]


def _read(pid: int, name: str) -> bytes:
    try:
        return (PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""


def _open_files(pid: int) -> set[Path]:
    try:
        return {link.readlink() for link in (PROC / str(pid) / "fd").iterdir()}
    except OSError:
        return set()
