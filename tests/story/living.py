"""I1: at any instant one job at most of a run has live ranks. Looked at five times a second, in /proc."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster.processes import Process, process

INTERVAL = 0.2  # seconds
YOUNG = 2.0  # seconds; a process that slurmstepd forked may yet become a rank


@dataclass(frozen=True)
class Rank:
    """A process past its job's claim: the script starts ranks only then."""

    process: Process
    run: str
    nonce: str
    restart: str  # SLURM_RESTART_COUNT: the same job started again by its site
    node: str

    @property
    def holder(self) -> str:
        return f"{self.nonce}.{self.restart}"

    @property
    def alive(self) -> bool:
        return process(self.process.pid) == self.process


@dataclass
class Living:
    """`apart`: nodes whose slurmd alone was killed. Slurm calls their jobs over while their ranks live on, and nothing

    can be told to them: what they publish is another matter (`Invariants`).
    """

    root: Path
    apart: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    looks: int = 0
    most: int = 0  # ranks that were alive at once

    def __post_init__(self) -> None:
        self._ranks: dict[int, Rank] = {}
        self._others: set[int] = set()
        self._first_seen: dict[int, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="living")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._ended.wait(INTERVAL):
            self.look()

    def look(self) -> None:
        there = {int(name) for name in os.listdir("/proc") if name.isdecimal()}
        self._forget(there)
        for pid in there - self._others - self._ranks.keys():
            self._classify(pid)
        self._judge()
        self.looks += 1
        self.most = max(self.most, len(self._ranks))

    def _forget(self, there: set[int]) -> None:
        self._others &= there
        for known in (self._ranks, self._first_seen):
            for pid in known.keys() - there:
                del known[pid]

    def _classify(self, pid: int) -> None:
        first = self._first_seen.setdefault(pid, time.monotonic())
        rank = rank_of(pid, self.root)
        if rank is not None:
            self._ranks[pid] = rank
        elif time.monotonic() - first > YOUNG:
            self._others.add(pid)

    def _judge(self) -> None:
        by_run: dict[str, dict[str, list[Rank]]] = defaultdict(lambda: defaultdict(list))
        for rank in self._ranks.values():
            if rank.node not in self.apart:
                by_run[rank.run][rank.holder].append(rank)
        for run, holders in by_run.items():
            # Once more: all were seen before this moment, so those that live now lived together.
            alive = {holder for holder, ranks in holders.items() if any(rank.alive for rank in ranks)}
            if len(alive) > 1:
                self.violations.append(f"I1: ranks of {len(alive)} jobs of {run} live at once: {sorted(alive)}")


def rank_of(pid: int, root: Path) -> Rank | None:
    """Started as `python -P -m trainer <root>/runs/<run>/attempts/<n>`; srun, with that in its arguments, is none."""
    found = process(pid)
    if found is None:
        return None
    try:
        words = (found.folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    if words[1:4] != ["-P", "-m", "trainer"] or not Path(words[4]).is_relative_to(root):
        return None
    environment = found.environment
    return Rank(
        process=found,
        run=Path(words[4]).parents[1].name,
        nonce=environment.get("CLIPCTL_NONCE", ""),
        restart=environment.get("SLURM_RESTART_COUNT", "0"),
        node=environment.get("SLURMD_NODENAME", ""),
    )
