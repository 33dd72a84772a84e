"""A tick after a long silence: much has been written meanwhile, and not all of it are events."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clipctl.ops.observe import HALF
from clipctl.store import open_store
from tests.store import stories
from trainer.contract import dumps

MEMORY = 250 << 20  # bytes of address space; an idle tick needs 160 of these megabytes
LONG_LINE = 100 << 20


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def grown(path: Path, megabytes: int) -> int:
    """Appends as much in real lines; the newest step's number."""
    step = 1
    with open(path, "a", encoding="utf-8") as file:
        while file.tell() < megabytes << 20:
            file.writelines(f"{dumps(stories.progress(number + 1, step=number))}\n" for number in _thousand(step))
            step += 1000
    return step - 1


def _thousand(step: int) -> Iterator[int]:
    yield from range(step, step + 1000)


@pytest.mark.timeout(3600)
def test_a_gigabyte_of_events_and_a_line_of_a_hundred_megabytes(home: Path, soak: Callable[[int, int], int]) -> None:
    """In bounded memory, some at each tick, each of which says so; what comes after the line is seen."""
    with open_store(home) as store:
        stories.launched(store, home)
    events = stories.attempt_folder(home).events
    stories.write_events(stories.attempt_folder(home), stories.event(1, "started", step=0))
    newest = grown(events, soak(8, 1024))
    with open(events, "a", encoding="utf-8") as file:
        for _ in range(LONG_LINE >> 20):
            file.write("x" * (1 << 20))
        file.write("\n" + dumps(stories.progress(newest + 2, step=newest + 1)) + "\n")
    command = [sys.executable, "-m", "clipctl", "watchdog", "run", "--verbose"]
    halves, offset = [], 0
    while offset < events.stat().st_size:
        done = subprocess.run(command, preexec_fn=limited, capture_output=True, text=True, env=os.environ, timeout=600)
        assert "Traceback" not in done.stderr, done.stderr
        halves.append(HALF in done.stdout)
        with open_store(home) as store:
            job = store.newest_job("digits")
        assert offset < job.cursor.offset, "each tick goes on from the one before"
        offset = job.cursor.offset
    assert halves == [True] * (len(halves) - 1) + [False]
    assert job.landmarks.progress is not None and job.landmarks.progress.step == newest + 1
