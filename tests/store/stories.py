"""Runs as the tests tell them: what launch, the nodes and the scheduler would have said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipctl.domain import Accepted, JobIdentity, Limits
from clipctl.journal import LocalFiles, checkpoints, read_all
from clipctl.layout import AttemptFolder, RunFolder
from clipctl.store import Intent, NewRun
from clipctl.store.writer import Store
from trainer.contract import (
    CheckpointManifest,
    Data,
    Event,
    Heartbeat,
    Parent,
    Phase,
    Precision,
    Stream,
    TrainSpec,
    dumps,
    write_atomic,
)
from trainer.evaluation import Evaluation

STEPS = 10  # an epoch
BATCH = 32  # a rank
RANKS = 2
SAMPLES = BATCH * RANKS


def train(precision: str = "amp_fp16", **changed: Any) -> dict[str, Any]:
    """A TrainSpec as JSON."""
    return {
        "model": "ViT-digits-32",
        "precision": precision,
        "batch_size": BATCH,
        "epochs": 4,
        "data": {"train_data": "/data/{0..3}.tar", "train_num_samples": SAMPLES * STEPS, "workers": 0},
        "optim": {"lr": 0.001},
        "faults": [],
    } | changed


def spec(name: str) -> str:
    document = {
        "name": name,
        "cluster": "local",
        "train": train(),
        "precisions": {"fp32": {"batch_size": 48}},
        "recovery": {"precision_ladder": ["amp_fp16", "fp32"], "rollback_epochs": 1},
    }
    return json.dumps({"schema": 1, "spec": document})


def new_run(home: Path, name: str, *, lost_after: float = 60.0) -> NewRun:
    folder = RunFolder.of(home, name)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.run.write_text(spec(name))
    return NewRun(
        name=name,
        run_id=f"{name}-id",
        folder=folder.path,
        cluster="local",
        scheduler="local",
        spec=spec(name),
        epochs=4,
        limits=Limits(lost_after=lost_after),
    )


def evaluation(nonce: str) -> Evaluation:
    """Of the first attempt's first epoch."""
    spec = TrainSpec(
        model="ViT-digits-32", data=Data(train_data="/0.tar", train_num_samples=64), epochs=4, batch_size=8
    )
    return Evaluation(
        run="digits",
        nonce=nonce,
        epoch=1,
        attempt=1,
        checkpoint="attempts/1/checkpoints/epoch_1.pt",
        digest="sha256:1",
        train=spec,
        suite="cars, dtd",
        datasets=("cars", "dtd"),
        data="/data",
        batch_size=8,
    )


def intent(
    nonce: str,
    *,
    time: float = 100.0,
    basis: str = "launched",
    settings: Mapping[str, Any] | None = None,
    parent: Parent | None = None,
    patch: Mapping[str, Any] | None = None,
) -> Intent:
    return Intent(
        nonce=nonce,
        time=time,
        actor="ada",
        basis=basis,
        train=settings or train(),
        ranks=RANKS,
        settings_digest=f"digest of {nonce}",
        parent=parent,
        patch=patch or {},
    )


def launched(
    store: Store,
    home: Path,
    name: str = "digits",
    *,
    nonce: str = "n1",
    lost_after: float = 60.0,
    settings: Mapping[str, Any] | None = None,
) -> JobIdentity:
    identity = store.create(new_run(home, name, lost_after=lost_after), intent(nonce, settings=settings))
    store.answered(nonce, Accepted(scheduler_id="4711"), time=101.0)
    return identity


# --- what the nodes write ---------------------------------------------------------------------------


def attempt_folder(home: Path, name: str = "digits", number: int = 1) -> AttemptFolder:
    folder = RunFolder.of(home, name).attempt(number)
    folder.path.mkdir(parents=True, exist_ok=True)
    return folder


def event(seq: int, kind: str, *, step: int, **facts: Any) -> Event:
    """`step` optimizer steps were done; it lies in the epoch that it ends."""
    epoch = max(1, -(-step // STEPS))
    return Event(seq=seq, time=200.0 + seq, kind=kind, epoch=epoch, step=step, samples_seen=step * SAMPLES, facts=facts)


def progress(seq: int, *, step: int, loss: float = 2.0) -> Event:
    place = (step - 1) % STEPS + 1
    return event(
        seq, "progress", step=step, step_in_epoch=place, steps_per_epoch=STEPS, loss=loss, samples_per_second=128.0
    )


def diverged(seq: int, *, step: int) -> Event:
    place = (step - 1) % STEPS + 1
    return event(seq, "diverged", step=step, step_in_epoch=place, loss="nan", cause="loss", ranks=[0, 1])


def write_events(folder: AttemptFolder, *events: Event) -> None:
    with folder.events.open("a", encoding="utf-8") as file:
        file.writelines(dumps(item) + "\n" for item in events)


def beat(folder: AttemptFolder, *, step: int) -> None:
    heartbeat = Heartbeat(
        counter=step,
        phase=Phase.TRAINING,
        epoch=max(1, -(-step // STEPS)),
        step=step,
        samples_seen=step * SAMPLES,
        time=300.0 + step,
    )
    write_atomic(folder.heartbeat, dumps(heartbeat))


def manifest(epochs_done: int, *, attempt: int = 1, run: str = "digits", size: int = 100) -> CheckpointManifest:
    return CheckpointManifest(
        file=f"epoch_{epochs_done}.pt",
        size=size,
        digest=f"sha256:{attempt}-{epochs_done}",
        run=run,
        attempt=attempt,
        epochs_done=epochs_done,
        step=epochs_done * STEPS,
        step_in_epoch=0,
        samples_seen=epochs_done * STEPS * SAMPLES,
        loss=1.5,
        finite=True,
        precision=Precision.AMP_FP16,
        stream=Stream(batch_size=BATCH, ranks=RANKS, workers=0),
        time=200.0 + epochs_done,
    )


def save(folder: AttemptFolder, epochs_done: int, *, attempt: int = 1) -> CheckpointManifest:
    """A checkpoint as the trainer leaves it: the file, then its manifest."""
    folder.checkpoints.mkdir(exist_ok=True)
    said = manifest(epochs_done, attempt=attempt)
    (folder.checkpoints / said.file).write_bytes(b"w" * said.size)
    (folder.checkpoints / f"{said.file}.json").write_text(dumps(said))
    return said


def parent(said: CheckpointManifest) -> Parent:
    return Parent(
        path=f"attempts/{said.attempt}/checkpoints/{said.file}",
        digest=said.digest,
        epochs_done=said.epochs_done,
        step=said.step,
        samples_seen=said.samples_seen,
    )


# --- what a look at them does -----------------------------------------------------------------------


def ingest(store: Store, home: Path, name: str = "digits", number: int = 1, **more: Any) -> None:
    files, folder = LocalFiles(), attempt_folder(home, name, number)
    for facts, cursor in read_all(files, folder, store.newest_job(name).cursor):
        store.ingest(name, number, facts, cursor, time=400.0, checkpoints=checkpoints(files, folder), **more)
