"""The real command line, the real trainer, small settings. Whatever a test leaves running is ended by its nonce."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clipctl.backends.processes import Process, scan

SMALL = (
    "resources.ranks_per_node=1",
    "train.data.workers=0",
    "train.data.train_num_samples=192",
    "train.epochs=3",
    "train.optim.warmup=2",
    "train.log_every_n_steps=1",
    "train.zeroshot.frequency=3",
)
PATIENCE = 240.0  # seconds; a machine full of other tests takes half a minute to import torch


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


class Desk:
    """A person at a terminal that is none."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def clipctl(self, *arguments: str, patience: float = PATIENCE) -> Said:
        command = [sys.executable, "-m", "clipctl", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=patience, check=False
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def launch(self, name: str, *sets: str, follow: bool = False) -> Said:
        options = [item for text in (*SMALL, *sets) for item in ("--set", text)]
        return self.clipctl("launch", "demo", "--name", name, *options, *(["--follow"] if follow else []))

    @contextmanager
    def watching(self, name: str, *sets: str) -> Iterator[subprocess.Popen[str]]:
        """`launch --follow` in a process and a session of its own, once the run is in the store."""
        options = [item for text in (*SMALL, *sets) for item in ("--set", text)]
        command = [sys.executable, "-m", "clipctl", "launch", "demo", "--name", name, *options, "--follow"]
        follower = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            end = time.monotonic() + PATIENCE
            while self.clipctl("status", name).code != 0 and time.monotonic() < end:
                time.sleep(0.3)
            yield follower
        finally:
            follower.kill()
            follower.communicate()

    def status(self, name: str) -> dict[str, Any]:
        said = self.clipctl("status", name, "--json")
        assert said.code == 0, said.err
        (run,) = json.loads(said.out)["runs"]
        return dict(run)

    def wait(self, name: str, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while not until(run := self.status(name)):
            assert time.monotonic() < end, f"waited for {PATIENCE:.0f} s; {run}"
            time.sleep(0.3)
        return run

    def events(self, name: str, attempt: int) -> list[dict[str, Any]]:
        path = self.home / "runs" / name / "attempts" / str(attempt) / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def losses(self, name: str, attempt: int) -> dict[int, float]:
        """By step."""
        progress = (event for event in self.events(name, attempt) if event["kind"] == "progress")
        return {event["step"]: event["loss"] for event in progress}

    def processes(self) -> list[Process]:
        """Of jobs that have this desk's home."""
        mark = f"CLIPCTL_HOME={self.home}\0".encode()
        return [item for item in scan(Path("/proc")) if mark in _environment(item.pid)]

    def signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                continue


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def desk(home: Path) -> Iterator[Desk]:
    desk = Desk(home)
    yield desk
    while desk.processes():
        desk.signal(signal.SIGKILL)
        time.sleep(0.05)
