"""Which processes are a cluster's, and their end. /proc knows, also after kill -9 of whoever started them.

- Daemons carry $EMULATED_CLUSTER, the cluster's folder.
- slurmstepd overwrites its environment with its title, but writes the log of its node as slurmd does.
- Ranks have descended from a slurmstepd, and carry $SLURM_CONF and $SLURMD_NODENAME whatever `--export` said.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

MARK = "EMULATED_CLUSTER"


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int = field(compare=False)  # another one once its own has ended
    start: int  # clock ticks since boot: with the pid, one process for ever

    @property
    def folder(self) -> Path:
        return Path("/proc", str(self.pid))

    @property
    def arguments(self) -> list[bytes]:
        """The program's own name first."""
        return _read(self.folder / "cmdline").split(b"\0")

    @property
    def program(self) -> str:
        return os.path.basename(self.arguments[0].decode(errors="replace"))

    @property
    def environment(self) -> dict[str, str]:
        """Empty where it cannot be read: another user's, or gone."""
        pairs = (
            item.decode(errors="surrogateescape").partition("=") for item in _read(self.folder / "environ").split(b"\0")
        )
        return {name: value for name, _, value in pairs}

    @property
    def resident(self) -> int:
        """Bytes."""
        pages = _read(self.folder / "statm").split()[1:2]
        return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")

    def writes(self) -> Iterator[Path]:
        """The files that it has open for writing."""
        with suppress(OSError):
            for link in (self.folder / "fd").iterdir():
                with suppress(OSError):
                    if link.lstat().st_mode & 0o200:
                        yield link.readlink()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def process(pid: int) -> Process | None:
    """None where there is none, or nothing of it but an exit code that nobody has asked for."""
    state, _, rest = _read(Path("/proc", str(pid), "stat")).rpartition(b")")[2].strip().partition(b" ")
    fields = rest.split()
    return Process(pid, int(fields[0]), int(fields[18])) if fields and state not in (b"Z", b"X") else None


def all_processes() -> list[Process]:
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdecimal())
    return [item for item in found if item is not None]


def of_cluster(folder: Path) -> list[Process]:
    """Daemons, slurmstepds, ranks, and what descends from them."""
    logs = folder / "log"
    return family(
        lambda item: (
            item.environment.get(MARK) == str(folder)
            or node_of(item, folder) is not None
            or any(file.parent == logs for file in item.writes())
        )
    )


def of_node(folder: Path, node: str) -> list[Process]:
    """A node's slurmd, slurmstepds, ranks, and what descends from them."""
    log = folder / "log" / f"{node}.log"
    return family(lambda item: node_of(item, folder) == node or log in item.writes())


def ranks(folder: Path) -> list[Process]:
    """What jobs run, their scripts included."""
    return family(lambda item: node_of(item, folder) is not None)


def node_of(item: Process, folder: Path) -> str | None:
    """The cluster's node that a job's process runs on; None for all other processes."""
    environment = item.environment
    ours = environment.get("SLURM_CONF") == str(folder / "slurm.conf")
    return environment.get("SLURMD_NODENAME") if ours else None


def family(ours: Callable[[Process], bool]) -> list[Process]:
    """Those processes with all that descends from them, but never this one: parents first."""
    everything = all_processes()
    found = {item.pid for item in everything if ours(item)} - {os.getpid()}
    grown = True
    while grown:
        children = {item.pid for item in everything if item.parent in found} - {os.getpid()}
        grown = not children <= found
        found |= children
    ours_by_pid = {item.pid: item for item in everything if item.pid in found}
    order = TopologicalSorter({pid: [item.parent] for pid, item in ours_by_pid.items()}).static_order()
    return [ours_by_pid[pid] for pid in order if pid in ours_by_pid]


def send(number: signal.Signals, processes: Iterable[Process]) -> None:
    for item in processes:
        with suppress(ProcessLookupError):
            if process(item.pid) == item:
                os.kill(item.pid, number)


def end(find: Callable[[], list[Process]], patience: float = 30.0) -> None:
    """SIGKILL until none is left. TimeoutError.

    In the order found: a parent that comes first does not learn of its child's end, and has no last word.
    One look can miss a process whose parent forked and ended meanwhile: two in a row have to find nothing.
    """
    limit = time.monotonic() + patience
    misses = 0
    while misses < 2:
        left = find()
        if left and time.monotonic() > limit:
            raise TimeoutError(f"does not die: {[item.pid for item in left]}")
        send(signal.SIGKILL, left)
        misses = 0 if left else misses + 1
        time.sleep(0.02)
