"""Real attempts: prepared as clipctl prepares them, run inside this process or as ranks of their own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import claim
from trainer.contract import (
    NONCE_VARIABLE,
    Attempt,
    CheckpointManifest,
    Data,
    Engine,
    Event,
    Job,
    Loss,
    Optim,
    Parent,
    Precision,
    TrainSpec,
    dumps,
    loads,
)
from trainer.signals import StopRequest
from trainer.verify import read_manifest

PATIENCE = 240.0  # seconds; generous, for busy machines


@dataclass(frozen=True)
class Started:
    folder: Path  # of the attempt
    nonce: str

    @property
    def run_folder(self) -> Path:
        return self.folder.parent.parent

    def events(self, kind: str | None = None) -> list[Event]:
        path = self.folder / "events.jsonl"
        whole = [line for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
        events = [loads(Event, line) for line in whole]
        return [event for event in events if kind in (None, event.kind)]

    def told(self) -> list[str]:
        """The kinds of events in order, without checkpoints: these come when they are written, training goes on."""
        return [event.kind for event in self.events() if event.kind != "checkpoint"]

    def losses(self) -> dict[int, tuple[Any, Any]]:
        return {event.step: (event.facts["loss"], event.facts["grad_norm"]) for event in self.events("progress")}

    def manifests(self) -> dict[str, CheckpointManifest]:
        files = sorted(self.folder.glob("*/*.pt"))
        found = {str(path.relative_to(self.folder)): read_manifest(path) for path in files}
        return {name: manifest for name, manifest in found.items() if manifest is not None}

    def parent(self, name: str) -> Parent:
        manifest = self.manifests()[name]
        return Parent(
            path=str((self.folder / name).relative_to(self.run_folder)),
            digest=manifest.digest,
            epochs_done=manifest.epochs_done,
            step=manifest.step,
            samples_seen=manifest.samples_seen,
        )

    def wait_for(self, reached: Callable[[Started], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not reached(self):
            assert time.monotonic() < deadline, f"never came: {[event.kind for event in self.events()]}"
            time.sleep(0.02)


def at_step(number: int) -> Callable[[Started], bool]:
    return lambda started: any(event.step >= number for event in started.events("progress"))


def has_saved(started: Started) -> bool:
    """A checkpoint is whole. It is written while training goes on, so no step tells when."""
    return bool(started.events("checkpoint"))


def digits_spec(digits: Path, **changes: Any) -> TrainSpec:
    """A run of seconds: 5 steps an epoch, every step logged."""
    data: Mapping[str, Any] = changes.pop("data", {})
    base: dict[str, Any] = {
        "model": "ViT-digits-32",
        "epochs": 3,
        "batch_size": 16,
        "precision": Precision.FP32,
        "log_every_n_steps": 1,
        "optim": Optim(lr=1e-3, warmup=5),
        "loss": Loss(local_loss=True, gather_with_grad=True),
        "ddp_static_graph": True,
    }
    shards = {"train_data": f"{digits}/train-{{000000..000007}}.tar", "train_num_samples": 80, "workers": 0}
    return TrainSpec(**(base | changes), data=Data(**({"dataset_resampled": True} | shards | data)))


def rehearsal_spec(**changes: Any) -> TrainSpec:
    """Without torch and data: milliseconds instead of seconds."""
    data = {"train_data": "/nowhere.tar", "train_num_samples": 80, "workers": 0} | changes.pop("data", {})
    base: dict[str, Any] = {
        "model": "none",
        "epochs": 3,
        "batch_size": 16,
        "engine": Engine.REHEARSAL,
        "precision": Precision.FP32,
        "log_every_n_steps": 1,
        "optim": Optim(lr=1e-2, warmup=5),
    }
    return TrainSpec(**(base | changes), data=Data(**data))


def prepare(
    run_folder: Path, number: int, train: TrainSpec, *, ranks: int = 1, parent: Parent | None = None
) -> Started:
    nonce = secrets.token_hex(8)
    folder, job = run_folder / "attempts" / str(number), run_folder / "jobs" / nonce
    folder.mkdir(parents=True)
    job.mkdir(parents=True)
    attempt = Attempt(run=run_folder.name, number=number, ranks=ranks, train=train, parent=parent)
    (folder / "attempt.json").write_text(dumps(attempt))
    (job / "job.json").write_text(dumps(Job(run=run_folder.name, attempt=number, nonce=nonce)))
    claim.claim(folder, {NONCE_VARIABLE: nonce}, wait=0)
    return Started(folder, nonce)


def run_here(started: Started, stop: StopRequest | None = None) -> int:
    """One rank, inside this process: no second import of torch."""
    from trainer.rank import run

    before = os.environ.get(NONCE_VARIABLE)
    os.environ[NONCE_VARIABLE] = started.nonce
    try:
        return run(loads(Attempt, (started.folder / "attempt.json").read_text()), started.folder, stop or StopRequest())
    finally:
        os.environ.pop(NONCE_VARIABLE)
        if before is not None:
            os.environ[NONCE_VARIABLE] = before


def spawn(started: Started, ranks: int, grace: float = 5.0, module: str = "trainer") -> subprocess.Popen[bytes]:
    """As processes of their own, as the job script starts them. `module`: what a rank runs."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "trainer.spawn",
        "-n",
        str(ranks),
        "--grace",
        str(grace),
        "--module",
        module,
        str(started.folder),
    ]
    return subprocess.Popen(command, env=os.environ | {NONCE_VARIABLE: started.nonce}, start_new_session=True)


def processes(started: Started) -> Iterator[int]:
    """Every process of the job, data-loader workers included."""
    mark = f"{NONCE_VARIABLE}={started.nonce}".encode()
    mine = str(started.folder).encode()
    for path in Path("/proc").iterdir():
        try:
            if (
                path.name.isdigit()
                and mark in (path / "environ").read_bytes()
                and mine in (path / "cmdline").read_bytes()
            ):
                yield int(path.name)
        except OSError:  # gone meanwhile
            continue


def signal_all(started: Started, number: int) -> None:
    """As slurmstepd does: every process, workers included."""
    for pid in processes(started):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def rank_process(started: Started, rank: int) -> int:
    """The rank itself, not its workers: the oldest process with its RANK."""
    mark = f"RANK={rank}".encode()
    mine = [pid for pid in processes(started) if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
    return min(mine, key=lambda pid: int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]))


def end(started: Started, process: subprocess.Popen[bytes]) -> None:
    """For a test's end, whatever happened: nothing stays behind."""
    signal_all(started, signal.SIGKILL)
    process.wait(timeout=PATIENCE)


def log(started: Started, rank: int) -> str:
    return (started.run_folder / "jobs" / started.nonce / "logs" / f"rank_{rank}.log").read_text()


def facts_of(path: Path) -> Any:
    return json.loads(path.read_text())
