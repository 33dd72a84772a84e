"""`train.engine: open_clip`: open_clip_train itself, unchanged, on real images; what is told of it, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.attempts import PATIENCE, Started, digits_spec, end, log, prepare, processes, spawn
from trainer.contract import Engine, ExitCode, TrainSpec
from trainer.verify import damage

pytestmark = pytest.mark.timeout(3 * PATIENCE)


def wrapped(digits: Path, **changes: object) -> TrainSpec:
    return digits_spec(digits, **({"engine": Engine.OPEN_CLIP, "epochs": 2, "ddp_static_graph": False} | changes))


def run(started: Started, code: ExitCode, ranks: int = 1) -> None:
    process = spawn(started, ranks)
    try:
        assert process.wait(timeout=PATIENCE) == code, log(started, 0)[-3000:]
        assert not list(processes(started))
    finally:
        end(started, process)


def test_an_attempt_completes_and_the_next_one_goes_on_from_its_checkpoint(digits: Path, tmp_path: Path) -> None:
    first = prepare(tmp_path / "run", 1, wrapped(digits))
    run(first, ExitCode.COMPLETED)
    assert first.told() == ["started", *["progress"] * 10, "completed"]
    assert [(event.epoch, event.step, event.samples_seen) for event in first.events("progress")][4:6] == [
        (1, 5, 80),
        (2, 6, 96),
    ]
    assert [(event.epoch, event.step) for event in first.events("checkpoint")] == [(2, 5), (3, 10)]
    manifests = first.manifests()
    assert list(manifests) == ["checkpoints/epoch_1.pt", "checkpoints/epoch_2.pt"]
    assert all(damage(first.folder / name, manifest) is None for name, manifest in manifests.items())
    last = manifests["checkpoints/epoch_2.pt"]
    assert (last.epochs_done, last.step, last.samples_seen, last.finite) == (2, 10, 160, True)
    assert last.loss == first.events("progress")[-1].facts["loss"]
    beat = (first.folder / "heartbeat.json").read_text()
    assert '"phase": "checkpointing"' in beat

    second = prepare(tmp_path / "run", 2, wrapped(digits, epochs=3), parent=first.parent("checkpoints/epoch_2.pt"))
    run(second, ExitCode.COMPLETED)
    assert [event.step for event in second.events("progress")] == [11, 12, 13, 14, 15]
    assert second.events("progress")[0].samples_seen == 176
    assert [event.facts["before"]["loss"] for event in second.events("continued")] == [last.loss]
    assert "resuming checkpoint" in log(second, 0)
    assert list(second.manifests()) == ["checkpoints/epoch_3.pt"]
