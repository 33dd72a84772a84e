"""Looks at the machine's processes while a test goes on: ranks of two jobs must never live at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.processes import Process, all_processes, process

RANK = [b"-P", b"-m", b"trainer"]  # after the interpreter; a claim, or srun that has these words too, is no rank


@contextmanager
def of_one_job_at_a_time(cluster: Path) -> Iterator[None]:
    """AssertionError at the end, with the nonces, if ranks of two jobs of this cluster were once alive together."""
    together: set[frozenset[str]] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            together.add(alive_together(cluster))

    witness = threading.Thread(target=watch)
    witness.start()
    try:
        yield
    finally:
        over.set()
        witness.join()
    assert all(len(nonces) <= 1 for nonces in together), together


def alive_together(cluster: Path) -> frozenset[str]:
    """Nonces of jobs whose ranks were all alive at one moment: after the last had been found, before the first was
    looked for again."""
    found = ranks(cluster)
    return frozenset(nonce for item, nonce in found if process(item.pid) == item)


def ranks(cluster: Path) -> list[tuple[Process, str]]:
    conf = str(cluster / "slurm.conf")
    trainers = [(item, item.environment) for item in all_processes() if item.arguments[1:4] == RANK]
    return [(item, seen["CLIPCTL_NONCE"]) for item, seen in trainers if seen.get("SLURM_CONF") == conf]
