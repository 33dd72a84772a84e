"""A person on a login node of the emulated cluster: the real command line, the real Slurm, the rehearsal trainee."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import Cluster

PATIENCE = 200.0  # seconds; all waits here are bounded, none is measured
SMALL = (
    "train.engine=rehearsal",
    "train.rehearsal.step_seconds=0.05",
    "train.precision=fp32",
    "train.batch_size=8",
    "train.epochs=3",
    "train.data.train_num_samples=320",
    "train.data.workers=0",
    "train.log_every_n_steps=5",
    "train.optim.warmup=2",
    "train.zeroshot=null",
    "resources.nodes=1",
    "resources.ranks_per_node=2",
)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class SlurmDesk:
    cluster: Cluster
    home: Path
    root: Path

    def environ(self, **more: str) -> Mapping[str, str]:
        return os.environ | self.cluster.environ | {"XDG_CONFIG_HOME": str(self.cluster.config_home)} | more

    def clipctl(self, *arguments: str, **more: str) -> Said:
        command = [sys.executable, "-m", "clipctl", *arguments]
        return self.command(command, **more)

    def command(self, command: list[str], **more: str) -> Said:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False,
            env=self.environ(**more),
        )  # fmt: skip
        return Said(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "clipctl", *arguments]
        pipe = subprocess.PIPE
        environ = self.environ(**more)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=environ)

    @staticmethod
    def launching(name: str, *sets: str) -> list[str]:
        options = [item for text in (*SMALL, *sets) for item in ("--set", text)]
        return ["launch", "demo", "--cluster", "emulated", "--name", name, "-y", *options]

    def launch(self, name: str, *sets: str, **more: str) -> Said:
        return self.clipctl(*self.launching(name, *sets), **more)

    def launched(self, name: str, *sets: str) -> str:
        """The job's id."""
        said = self.launch(name, *sets)
        assert said.code == 0, said.err
        return str(self.status(name)["job"]["scheduler_id"])

    def resumed(self, name: str, *options: str) -> str:
        said = self.clipctl("resume", name, "-y", *options)
        assert said.code == 0, said.out + said.err
        return said.out

    def status(self, name: str) -> dict[str, Any]:
        said = self.clipctl("status", name, "--json")
        assert said.code == 0, said.err
        (run,) = json.loads(said.out)["runs"]
        return dict(run)

    def wait(self, name: str, until: Callable[[dict[str, Any]], object], patience: float = PATIENCE) -> dict[str, Any]:
        end = time.monotonic() + patience
        while not until(run := self.status(name)):
            assert time.monotonic() < end, f"waited for {patience:.0f} s; {run}\n{self.log(name)}"
            time.sleep(0.2)
        return run

    def ended(self, name: str, patience: float = PATIENCE) -> dict[str, Any]:
        """Once its job is over for certain."""
        over = ("completed", "stopped", "cancelled", "held")
        return self.wait(name, lambda run: run["state"] in over and not run["job"]["live"], patience)

    def looked(self, name: str) -> dict[str, Any]:
        """After a look that is stored: `status` itself never writes down since when a job is missing."""
        self.clipctl("checkpoints", name, "--verify")
        return self.status(name)

    def trains(self, name: str, steps: int = 1) -> dict[str, Any]:
        return self.wait(name, lambda run: (run["progress"]["step"] or 0) >= steps and run["state"] == "running")

    def folder(self, name: str) -> Path:
        return self.root / "runs" / name

    def events(self, name: str, attempt: int = 1, kind: str | None = None) -> list[dict[str, Any]]:
        path = self.folder(name) / "attempts" / str(attempt) / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [event for event in found if kind in (None, event["kind"])]

    def log(self, name: str) -> str:
        logs = sorted(self.folder(name).glob("jobs/*/logs/*.log"))
        return "\n".join(f"--- {log}\n{log.read_text(errors='replace')[-2000:]}" for log in logs[:3])

    def jobs_of(self, name: str, *options: str) -> list[str]:
        """Ids of jobs of this run that Slurm lists: live ones, if `options` of squeue do not ask for others."""
        wanted = ("--noheader", "--format=%i", f"--name=clipctl-{self.run_id(name)}", *options)
        return self.cluster.run("squeue", *wanted).stdout.split()

    def run_id(self, name: str) -> str:
        intents = (self.folder(name) / "decisions.jsonl").read_text().splitlines()
        return str(json.loads(intents[0])["run_id"])


def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.1)


def real(program: str) -> str:
    return subprocess.run(["which", program], check=True, capture_output=True, text=True).stdout.strip()


def impostor(folder: Path, body: str) -> str:
    """A PATH on which `sbatch` first does something of a test's own."""
    file = folder / "bin" / "sbatch"
    file.parent.mkdir()
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(0o755)
    return f"{file.parent}:/usr/bin:/bin"
