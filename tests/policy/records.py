"""Small builders: a run's history as policy sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clipctl.domain import (
    AttemptRecord,
    CheckpointRecord,
    CheckpointState,
    History,
    Incident,
    IncidentKind,
    RunState,
)
from clipctl.policy import settings_digest
from trainer.contract import CheckpointManifest, Data, Precision, Stream, TrainSpec, dumps

EPOCH = 1000  # samples
HOUR = 3600.0


def train(precision: str = "amp_fp16", batch_size: int = 208) -> dict[str, Any]:
    data = Data(train_data="/data/{00000..00003}.tar", train_num_samples=EPOCH)
    spec = TrainSpec(model="ViT-L-14", data=data, epochs=160, batch_size=batch_size, precision=Precision(precision))
    raw: dict[str, Any] = json.loads(dumps(spec))
    return raw


def checkpoint(
    attempt: int, epochs: int, *, into: int = 0, state: CheckpointState = CheckpointState.COMPLETE, finite: bool = True
) -> CheckpointRecord:
    """`into` steps of 10 samples after `epochs` whole ones."""
    samples = epochs * EPOCH + into * 10
    name = f"step_{samples // 10}.pt" if into else f"epoch_{epochs}.pt"
    manifest = CheckpointManifest(
        file=name, size=1, digest=f"sha256:{attempt}-{samples}", run="r", attempt=attempt, epochs_done=epochs,
        step=samples // 10, step_in_epoch=into, samples_seen=samples, loss=1.0, finite=finite,
        precision=Precision.AMP_FP16, stream=Stream(batch_size=10, ranks=1, workers=0), time=0.0,
    )  # fmt: skip
    return CheckpointRecord(path=f"attempts/{attempt}/checkpoints/{name}", manifest=manifest, state=state)


def attempt(
    number: int,
    *,
    parent: CheckpointRecord | None = None,
    parent_path: str | None = None,
    incident: Incident | None = None,
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> AttemptRecord:
    settings = settings or train()
    known: dict[str, Any] = {
        "parent_digest": parent.manifest.digest if parent else None,
        "parent_path": parent.path if parent else parent_path,
        "settings_digest": settings_digest(settings, 384),
        "train": settings,
        "patch": {},
        "ranks": 384,
        "created_at": number * HOUR,
        "ended_at": None if incident is None else number * HOUR + 60,
        "incident": incident,
    }
    return AttemptRecord(number=number, **known | more)


def diverged(number: int, epoch: int, step_in_epoch: int = 5, **more: Any) -> Incident:
    samples = (epoch - 1) * EPOCH + step_in_epoch * 10
    found = Incident(
        kind=IncidentKind.DIVERGED, attempt=number, detail="loss nan", epoch=epoch, step_in_epoch=step_in_epoch,
        step=samples // 10, samples_seen=samples, ranks=(0, 1), rise=False,
    )  # fmt: skip
    return replace(found, **more)


def ended(number: int, kind: IncidentKind, **more: Any) -> Incident:
    return Incident(**{"kind": kind, "attempt": number, "detail": "as it says"} | more)


def history(
    *attempts: AttemptRecord,
    checkpoints: tuple[CheckpointRecord, ...] = (),
    state: RunState = RunState.STOPPED,
    **more: Any,
) -> History:
    return History(run="r", state=state, attempts=attempts, checkpoints=checkpoints, **more)
