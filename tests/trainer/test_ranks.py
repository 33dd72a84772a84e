"""Two ranks as real processes with data-loader workers: stopped, killed, and gone on."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainer.attempts import (
    PATIENCE,
    Started,
    at_step,
    digits_spec,
    end,
    has_saved,
    log,
    prepare,
    processes,
    rank_process,
    signal_all,
    spawn,
)
from trainer.contract import ExitCode, Fault, FaultKind, TrainSpec
from trainer.place import Place, place
from trainer.verify import damage

RANKS = 2


@pytest.fixture
def train(digits: Path) -> TrainSpec:
    return digits_spec(digits, epochs=2, data={"train_num_samples": 320, "workers": 1})  # ten steps an epoch


def test_a_stop_in_the_middle_and_a_resume_give_the_losses_of_an_undisturbed_run(
    train: TrainSpec, tmp_path: Path
) -> None:
    whole = prepare(tmp_path / "whole", 1, train, ranks=RANKS)
    process = spawn(whole, RANKS)
    assert process.wait(timeout=PATIENCE) == ExitCode.COMPLETED, log(whole, 0)

    first = prepare(tmp_path / "run", 1, train, ranks=RANKS)
    process = spawn(first, RANKS)
    try:
        first.wait_for(at_step(4))
        signal_all(first, signal.SIGTERM)  # workers too, as slurmstepd does
        assert process.wait(timeout=PATIENCE) == ExitCode.STOPPED, log(first, 0)
    finally:
        end(first, process)
    stopped = first.events()[-1]
    assert (stopped.kind, stopped.facts["signal"]) == ("stopped", signal.SIGTERM)
    assert stopped.step == max(first.losses()) < 20
    assert not list(processes(first))

    second = prepare(tmp_path / "run", 2, train, ranks=RANKS, parent=first.parent(stopped.facts["checkpoint"]))
    process = spawn(second, RANKS)
    assert process.wait(timeout=PATIENCE) == ExitCode.COMPLETED, log(second, 0)
    assert min(second.losses()) == stopped.step + 1
    assert first.losses() | second.losses() == whole.losses()


def test_the_rank_that_the_others_wait_for_is_told(train: TrainSpec, tmp_path: Path) -> None:
    slow = Fault(kind=FaultKind.SLOW_RANK, at_epoch=1, at_step=6, rank=1, seconds=1.0)
    started = prepare(tmp_path / "run", 1, replace(train, epochs=1, faults=(slow,)), ranks=RANKS)
    process = spawn(started, RANKS)
    assert process.wait(timeout=PATIENCE) == ExitCode.COMPLETED, log(started, 0)
    told = [event.facts for event in started.events("progress") if event.step > 6]
    assert {facts["slowest_rank"] for facts in told} == {1}
    for facts in told:
        assert facts["slowest_seconds"] - facts["median_seconds"] > facts["seconds"] / 2


@pytest.mark.parametrize("victims", [[1], [0], [0, 1]], ids=["rank 1", "rank 0", "all ranks"])
def test_ranks_that_are_killed_leave_only_whole_checkpoints_and_take_the_others_with_them(
    train: TrainSpec, tmp_path: Path, victims: list[int]
) -> None:
    started = prepare(tmp_path / "run", 1, replace(train, epochs=50), ranks=RANKS)
    process = spawn(started, RANKS)
    try:
        started.wait_for(has_saved)
        for pid in [rank_process(started, rank) for rank in victims]:
            os.kill(pid, signal.SIGKILL)
        assert process.wait(timeout=PATIENCE) not in (ExitCode.COMPLETED, ExitCode.STOPPED)
        assert not list(processes(started))
    finally:
        end(started, process)
    assert [event.kind for event in started.events()][-1] != "completed"
    whole = started.manifests()
    assert "checkpoints/epoch_1.pt" in whole
    assert all(damage(started.folder / name, manifest) is None for name, manifest in whole.items())


def test_the_environment_says_who_a_rank_is() -> None:
    slurm = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
    assert place(slurm) == Place(5, 8, 1)
    assert place(slurm | {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2"}) == Place(2, 4, 2)
    submitit = {"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_LOCALID": "1"}
    assert place(submitit) == Place(1, 2, 1)
    assert place({"SLURM_NTASKS": "384"}) == Place(0, 1, 0), "a lone process inside an allocation"


def test_a_started_attempt_names_its_hosts(train: TrainSpec, tmp_path: Path) -> None:
    started: Started = prepare(tmp_path / "run", 1, train, ranks=3)
    process = spawn(started, RANKS, grace=1)
    assert process.wait(timeout=PATIENCE) == ExitCode.REFUSED
    assert "2 ranks were started, the attempt is for 3" in started.events()[-1].facts["error"]
