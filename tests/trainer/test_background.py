"""Checkpoints that do not stop training: copied while it stands, written while it goes on."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from tests.trainer.attempts import Started, prepare, rehearsal_spec
from trainer.checkpoints import CheckpointKeeper, Fenced
from trainer.contract import Attempt, loads
from trainer.position import Position
from trainer.recorder import FileRecorder
from trainer.rehearsal import files
from trainer.rehearsal.trainee import RehearsalTrainee
from trainer.schedule import Geometry
from trainer.snapshot import Snapshot

PATIENCE = 60  # seconds
TRAIN = rehearsal_spec()
START = Position(Geometry.of(TRAIN, 1))
Write = Callable[[Mapping[str, Any], IO[bytes]], None]


class Disk:
    """Takes a payload once it is told to, or refuses it as a full disk does."""

    def __init__(self) -> None:
        self.begun, self.may_go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.full = False

    def write(self, payload: Mapping[str, Any], file: IO[bytes]) -> None:
        self.begun.release()
        assert self.may_go_on.acquire(timeout=PATIENCE)
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        files.write(payload, file)


class Bench:
    """A keeper with a trainee whose weights the test changes, as training would."""

    def __init__(self, run_folder: Path, write: Write) -> None:
        self.started: Started = prepare(run_folder, 1, TRAIN)
        self.trainee = RehearsalTrainee(TRAIN, START.geometry)
        self.recorder = FileRecorder(self.started.folder)
        self.mine = True
        attempt = loads(Attempt, (self.started.folder / "attempt.json").read_text())
        self.keeper = CheckpointKeeper(
            attempt, self.started.folder, self.trainee, self.recorder, lambda: self.mine, write
        )
        self.at = START

    def step(self, weight: float) -> None:
        self.trainee.weights[:] = weight
        self.at = self.at.after_step()

    def save(self) -> None:
        self.keeper.save(self.at, 1.0)

    def wait_for_the_writer(self) -> None:
        self.keeper._writer.submit(int).result(PATIENCE)  # behind it in the queue

    def saved_weight(self, name: str) -> float:
        return float(files.read(self.started.folder / name)["state_dict"]["hidden"].flat[0])

    def notices(self) -> list[str]:
        self.recorder.close()
        return [event.facts["text"] for event in self.started.events("notice")]


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def bench(tmp_path: Path, disk: Disk) -> Iterator[Bench]:
    bench = Bench(tmp_path / "run", disk.write)
    yield bench
    disk.may_go_on.release(10)
    bench.keeper.close()
    bench.recorder.close()


def test_training_goes_on_while_a_checkpoint_is_written_and_what_is_written_is_the_moment_it_was_asked_for(
    bench: Bench, disk: Disk
) -> None:
    bench.step(1.0)
    bench.save()
    assert disk.begun.acquire(timeout=PATIENCE)
    for weight in (2.0, 3.0):
        bench.step(weight)
    assert not bench.started.manifests(), "the disk has not taken it yet, and nobody waited for that"
    disk.may_go_on.release()
    assert bench.keeper.finish() == "steps/step_1.pt"
    assert bench.saved_weight("steps/step_1.pt") == 1.0
    bench.recorder.close()
    (event,) = bench.started.events("checkpoint")
    assert event.step == 1
    assert min(event.facts["stood_seconds"], event.facts["write_seconds"]) >= 0


def test_saves_never_overlap(bench: Bench, disk: Disk) -> None:
    bench.step(1.0)
    bench.save()
    assert disk.begun.acquire(timeout=PATIENCE)
    bench.step(2.0)
    with ThreadPoolExecutor(1) as training:
        second = training.submit(bench.save)
        assert not disk.begun.acquire(timeout=0.2), "the second write has not begun"
        assert not second.done(), "nor has the state been copied over the one that is being written"
        disk.may_go_on.release(2)
        second.result(timeout=PATIENCE)
    assert bench.keeper.finish() == "steps/step_2.pt"
    assert [bench.saved_weight(f"steps/step_{step}.pt") for step in (1, 2)] == [1.0, 2.0]


def test_a_disk_that_is_full_once_costs_one_checkpoint_and_leaves_nothing_half_written(
    bench: Bench, disk: Disk
) -> None:
    disk.may_go_on.release(2)
    disk.full = True
    bench.step(1.0)
    bench.save()
    bench.wait_for_the_writer()
    disk.full = False
    bench.step(2.0)
    assert not bench.keeper.due(bench.at)
    assert "No space left on device" in str(bench.keeper.unsaved)
    bench.save()
    assert bench.keeper.finish() == "steps/step_2.pt"
    assert bench.keeper.unsaved is None
    assert [path.name for path in sorted((bench.started.folder / "steps").iterdir())] == [
        "step_2.pt",
        "step_2.pt.json",
    ]
    (notice,) = bench.notices()
    assert notice == (
        "steps/step_1.pt was not written: [Errno 28] No space left on device: 'steps/step_1.pt'; training goes on"
    )


def test_the_second_refusal_in_a_row_ends_the_attempt_before_more_is_lost(bench: Bench, disk: Disk) -> None:
    disk.may_go_on.release(2)
    disk.full = True
    for weight in (1.0, 2.0):
        bench.step(weight)
        bench.save()
    bench.step(3.0)
    with pytest.raises(OSError, match=r"step_2\.pt") as refused:
        bench.save()
    assert refused.value.errno == errno.ENOSPC


def test_of_the_last_save_no_refusal_is_borne(bench: Bench, disk: Disk) -> None:
    disk.may_go_on.release()
    disk.full = True
    bench.step(1.0)
    bench.save()
    with pytest.raises(OSError, match=r"step_1\.pt"):
        bench.keeper.finish()


def test_who_is_fenced_while_it_writes_publishes_nothing_and_hears_of_it_at_the_next_step(
    bench: Bench, disk: Disk
) -> None:
    bench.step(1.0)
    bench.save()
    bench.mine = False
    disk.may_go_on.release()
    bench.wait_for_the_writer()
    bench.step(2.0)
    with pytest.raises(Fenced, match=r"step_1\.pt is not published"):
        bench.keeper.due(bench.at)
    assert list((bench.started.folder / "steps").iterdir()) == []


def test_weights_that_are_not_finite_are_told_and_not_written(bench: Bench) -> None:
    bench.step(float("nan"))
    bench.save()
    assert bench.keeper.finish() is None
    assert not bench.started.manifests()
    assert bench.notices() == ["weights are not finite: no checkpoint is written"]


def test_what_is_being_written_when_an_attempt_fails_gets_its_time(bench: Bench, disk: Disk) -> None:
    bench.step(1.0)
    bench.save()
    disk.may_go_on.release()
    bench.keeper.close()
    assert list(bench.started.manifests()) == ["steps/step_1.pt"]


def test_a_snapshot_is_the_state_of_one_moment_and_uses_its_memory_again() -> None:
    weight, step = torch.ones(3, 2, dtype=torch.bfloat16), torch.tensor(5.0)
    state = {
        "state_dict": {"w": weight},
        "optimizer": {"state": {0: {"step": step}}, "groups": [{"lr": 0.1, "of": [0]}]},
    }
    snapshot = Snapshot()
    snapshot.reserve(state)
    assert (float(step), torch.equal(weight, torch.ones_like(weight))) == (5.0, True), "only room was made"
    reserved = {way: buffer.data_ptr() for way, buffer in snapshot._buffers.items()}
    first = snapshot.take(state)
    assert reserved == {way: buffer.data_ptr() for way, buffer in snapshot._buffers.items()}
    places = first["state_dict"]["w"].data_ptr(), first["optimizer"]["state"][0]["step"].data_ptr()
    weight += 1
    step += 1
    assert torch.equal(first["state_dict"]["w"], torch.ones(3, 2, dtype=torch.bfloat16))
    assert (first["optimizer"]["state"][0]["step"], first["optimizer"]["groups"]) == (5.0, [{"lr": 0.1, "of": [0]}])
    second = snapshot.take(state)
    assert (second["state_dict"]["w"].data_ptr(), second["optimizer"]["state"][0]["step"].data_ptr()) == places
    assert torch.equal(second["state_dict"]["w"], weight)
