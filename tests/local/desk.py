"""A run's folder with real files in it, and a stand-in for the trainer's rank that needs no torch."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clipctl.backends.local import LocalBackend
from clipctl.backends.processes import Process, scan
from clipctl.domain import Accepted, JobHandle, JobIdentity, Limits
from clipctl.layout import AttemptFolder, JobFolder, RunFolder
from clipctl.render import render
from clipctl.spec import load_cluster, resolve
from trainer import contract
from trainer.contract import Attempt, Data, Job, TrainSpec

REPOSITORY = Path(__file__).parents[2]
PROC = Path("/proc")
TRAIN = TrainSpec(
    model="ViT-digits-32", data=Data(train_data="/data/0.tar", train_num_samples=64), epochs=1, batch_size=8
)

# A rank that trains until it is asked to stop; then rank 0 writes its last word and leaves with it, the last of all.
TRAINING = """
import json, os, signal, sys, time
from pathlib import Path
attempt, rank, told = Path(sys.argv[1]), int(os.environ["RANK"]), []
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, lambda number, frame: (told.append(number), print("told", number)))
print("training")
(attempt / f"rank_{rank}.ready").touch()
while not told:
    time.sleep(0.02)
time.sleep(0.2)
print("saved after", len(told))
if rank == 0:
    with open(attempt / "events.jsonl", "a") as events:
        events.write(json.dumps({"kind": "stopped", "seq": 1}) + "\\n")
    sys.exit(85)
"""

# Submits a script and then follows it for ever, as `clipctl launch --follow` does.
SUBMITTING = """
import sys, time
from pathlib import Path
from clipctl.backends.local import LocalBackend
from clipctl.domain import JobIdentity
identity = JobIdentity(run="demo", run_id="r1", attempt=1, nonce=sys.argv[2], submitted_at=0.0)
print(LocalBackend().submit(Path(sys.argv[1]), identity))
sys.stdout.flush()
if "stay" in sys.argv:
    time.sleep(600)
"""


@dataclass
class Desk:
    """One run below `root`. `rank` sets what a rank does. Jobs have short names here and nonces of this desk alone."""

    root: Path
    tag: str = field(default_factory=lambda: uuid.uuid4().hex)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def folder(self) -> RunFolder:
        return RunFolder.of(self.root, "demo")

    @property
    def modules(self) -> Path:
        return self.root / "modules"

    def rank(self, source: str) -> None:
        self.modules.mkdir(exist_ok=True)
        (self.modules / "stand_in.py").write_text(source)

    def attempt(self, number: int = 1) -> AttemptFolder:
        folder = self.folder.attempt(number)
        folder.path.mkdir(parents=True, exist_ok=True)
        attempt = Attempt(run="demo", number=number, ranks=2, train=TRAIN)
        folder.attempt.write_text(contract.dumps(attempt))
        return folder

    def nonce(self, job: str) -> str:
        return f"{job}-{self.tag}"

    def job(self, job: str) -> JobFolder:
        return self.folder.job(self.nonce(job))

    def issue(self, job: str, attempt: int = 1) -> JobFolder:
        folder = self.job(job)
        folder.logs.mkdir(parents=True)
        folder.job.write_text(contract.dumps(Job(run="demo", attempt=attempt, nonce=self.nonce(job))))
        return folder

    def script(
        self, job: str, *, ranks: int = 2, attempt: int = 1, limits: Limits | None = None, **cluster: object
    ) -> Path:
        """The job's script as rendered, but for what its ranks run."""
        self.attempt(attempt)
        profile = load_cluster("local").model_copy(update={"limits": limits or Limits(), **cluster})
        spec = resolve("demo", sets=[f"resources.ranks_per_node={ranks}"])
        text = render(
            spec, profile, identity=self.identity(job, attempt), run_folder=self.folder, python=sys.executable
        )
        assert "trainer.spawn -n" in text
        script = self.issue(job, attempt).submission
        script.write_text(text.replace("trainer.spawn -n", "trainer.spawn --module stand_in -n"))
        return script

    def identity(self, job: str, attempt: int = 1) -> JobIdentity:
        return JobIdentity(run="demo", run_id="r1", attempt=attempt, nonce=self.nonce(job), submitted_at=0.0)

    def handle(self, job: str) -> JobHandle:
        return JobHandle(identity=self.identity(job))

    def environ(self, job: str = "", **more: str) -> Mapping[str, str]:
        marks = {contract.NONCE_VARIABLE: self.nonce(job)} if job else {}
        return os.environ | {"PYTHONPATH": f"{self.modules}"} | marks | more

    def start(self, *command: str | Path, job: str = "", **more: str) -> subprocess.Popen[bytes]:
        """A process that the desk sees to the end of."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=self.environ(job, **more), stdout=pipe, stderr=pipe, cwd=self.root)
        self.processes.append(process)
        return process

    def python(self, module: str, *arguments: str | Path, job: str = "", **more: str) -> subprocess.Popen[bytes]:
        return self.start(sys.executable, "-P", "-m", module, *map(str, arguments), job=job, **more)

    def submit(self, job: str, script: Path, attempt: int = 1, **options: float) -> None:
        answer = LocalBackend(**options).submit(script, self.identity(job, attempt))
        assert isinstance(answer, Accepted), answer

    def of(self, job: str) -> list[Process]:
        return [process for process in scan(PROC) if process.nonce == self.nonce(job)]

    def ready(self, ranks: int = 2, attempt: int = 1) -> None:
        """Waits for all ranks to train."""
        marks = [self.folder.attempt(attempt).path / f"rank_{rank}.ready" for rank in range(ranks)]
        eventually(lambda: all(mark.exists() for mark in marks))

    def exit(self, job: str, seconds: float = 60.0) -> contract.Exit:
        path = self.job(job).exit
        eventually(path.exists, seconds)
        return contract.loads(contract.Exit, path.read_text())

    def log(self, job: str, name: str = "script") -> str:
        return (self.job(job).logs / f"{name}.log").read_text()

    def close(self) -> None:
        """Ends what was started and fails where anything of this desk is left: by nonce, or by its folder's name."""
        for log in sorted(self.folder.path.glob("jobs/*/**/*.*")):  # pytest shows it where a test fails
            if log.suffix in (".log", ".err") and log.is_file():
                print(f"--- {log.relative_to(self.folder.path)}\n{log.read_text(errors='replace')}")
        for process in self.processes:
            process.kill()
            process.wait()
            for pipe in filter(None, (process.stdout, process.stderr)):  # not read: what is left could hold them open
                pipe.close()
        try:
            eventually(lambda: not self.leftovers(), seconds=10)
        finally:
            for pid in self.leftovers():
                os.kill(pid, signal.SIGKILL)

    def leftovers(self) -> list[int]:
        """Processes with a nonce of this desk, and those that name its folder in their command line: submitit's."""
        found = {process.pid for process in scan(PROC) if self.tag in process.nonce}
        for folder in PROC.glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.root).encode() in (folder / "cmdline").read_bytes():
                    found.add(int(folder.name))
        return sorted(found)


def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits for `condition`; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Of any descent."""
    found = []
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        found += [child, *children(child)]
    return found
