"""Ranks of the rehearsal engine as real processes: they agree, stop, go on to the last bit, and leave if one dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.attempts import (
    PATIENCE,
    Started,
    at_step,
    end,
    has_saved,
    log,
    prepare,
    rank_process,
    rehearsal_spec,
    signal_all,
    spawn,
)
from trainer.contract import NONCE_VARIABLE, ExitCode, Fault, FaultKind, Precision, Rehearsal, TrainSpec
from trainer.verify import damage

RANKS = 3


def spec(**changes: Any) -> TrainSpec:
    """Twenty steps in two epochs, in real float16."""
    changes = {"precision": Precision.AMP_FP16, "epochs": 2, "data": {"train_num_samples": 480}} | changes
    return rehearsal_spec(**changes)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., tuple[Started, subprocess.Popen[bytes]]]]:
    """Attempt 1 of a run, its ranks started; nothing of it outlives the test."""
    all_started = []

    def run(train: TrainSpec) -> tuple[Started, subprocess.Popen[bytes]]:
        started = prepare(tmp_path / "run", 1, train, ranks=RANKS)
        process = spawn(started, RANKS, grace=60)
        all_started.append((started, process))
        return started, process

    yield run
    for started, process in all_started:
        end(started, process)


def finished(started: Started) -> Started:
    assert spawn(started, RANKS).wait(timeout=PATIENCE) == ExitCode.COMPLETED, log(started, 0)
    return started


def test_a_stop_in_the_middle_and_a_resume_give_the_losses_of_an_undisturbed_run(
    running: Callable[..., tuple[Started, subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    """The signal comes while all others wait in a socket for the slow one."""
    whole = finished(prepare(tmp_path / "whole", 1, spec(), ranks=RANKS))
    slow = Fault(kind=FaultKind.SLOW_RANK, at_epoch=1, at_step=3, rank=1, seconds=0.3)
    first, process = running(spec(faults=(slow,)))
    first.wait_for(at_step(4))
    signal_all(first, signal.SIGUSR1)
    assert process.wait(timeout=PATIENCE) == ExitCode.STOPPED, log(first, 0)
    stopped = first.events()[-1]
    assert (stopped.kind, stopped.facts["signal"]) == ("stopped", signal.SIGUSR1)
    assert stopped.step == max(first.losses()) < 20

    second = prepare(tmp_path / "run", 2, spec(), ranks=RANKS, parent=first.parent(stopped.facts["checkpoint"]))
    finished(second)
    assert min(second.losses()) == stopped.step + 1
    assert first.losses() | second.losses() == whole.losses()


def test_every_rank_has_pairs_of_its_own_and_all_train_one_model(tmp_path: Path) -> None:
    started = finished(prepare(tmp_path / "run", 1, spec(epochs=1), ranks=RANKS))
    step = started.events("progress")[0].facts
    assert step["loss"] < step["loss_max"], "the mean of three"
    alone = prepare(tmp_path / "alone", 1, rehearsal_spec(batch_size=48, precision=Precision.AMP_FP16))
    assert subprocess.run(**command(alone), check=True).returncode == ExitCode.COMPLETED
    assert alone.events("progress")[0].facts["loss"] != step["loss"]


def test_the_rank_that_the_others_wait_for_is_told(tmp_path: Path) -> None:
    slow = Fault(kind=FaultKind.SLOW_RANK, at_epoch=2, at_step=1, rank=1, seconds=0.1)
    started = finished(prepare(tmp_path / "run", 1, spec(epochs=2, faults=(slow,)), ranks=RANKS))
    told = [event.facts for event in started.events("progress") if event.epoch == 2]
    assert {facts["slowest_rank"] for facts in told} == {1}
    for facts in told[1:]:  # the first one was read after a second step, and has the time of both
        assert facts["slowest_seconds"] - facts["median_seconds"] > facts["seconds"] / 2


@pytest.mark.parametrize("victim", [0, 2])
def test_when_a_rank_is_killed_the_others_leave_by_themselves(
    victim: int, running: Callable[..., tuple[Started, subprocess.Popen[bytes]]]
) -> None:
    started, process = running(spec(epochs=50, rehearsal=Rehearsal(step_seconds=0.02)))
    started.wait_for(has_saved)
    os.kill(rank_process(started, victim), signal.SIGKILL)
    asked = time.monotonic()
    assert process.wait(timeout=PATIENCE) == 128 + signal.SIGKILL
    assert time.monotonic() - asked < 30, "spawn would have waited for 60 s"
    others = set(range(RANKS)) - {victim}
    assert all("has left" in log(started, rank) for rank in others)
    assert (started.events()[-1].kind == "crashed") is (victim != 0), "rank 0 has the last word, if it can"
    assert "checkpoints/epoch_1.pt" in started.manifests()
    assert all(damage(started.folder / name, manifest) is None for name, manifest in started.manifests().items())


def test_signals_while_others_hang_break_nothing(
    running: Callable[..., tuple[Started, subprocess.Popen[bytes]]],
) -> None:
    started, process = running(spec(faults=(Fault(kind=FaultKind.HANG, at_epoch=1, at_step=3, rank=1),)))
    started.wait_for(lambda started: (started.run_folder / "faults").exists())
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal_all(started, number)
        time.sleep(0.2)
    assert process.poll() is None, "they wait"
    os.kill(rank_process(started, 1), signal.SIGKILL)
    assert process.wait(timeout=PATIENCE) == 128 + signal.SIGKILL
    assert "rank 1 has left" in started.events()[-1].facts["error"]


def test_a_rehearsed_crash_is_told_and_the_next_attempt_completes(
    running: Callable[..., tuple[Started, subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    crash = spec(faults=(Fault(kind=FaultKind.CRASH, at_epoch=2, at_step=3, rank=2),))
    first, process = running(crash)
    assert process.wait(timeout=PATIENCE) == ExitCode.CRASHED
    assert "RehearsedCrash" in log(first, 2)
    assert "rank 2 has left" in first.events()[-1].facts["error"]
    parent = first.parent("checkpoints/epoch_1.pt")
    finished(prepare(tmp_path / "run", 2, crash, ranks=RANKS, parent=parent))


def test_the_others_hear_of_rank_0s_end_only_after_its_last_word(tmp_path: Path) -> None:
    """Else one of them is the first to leave, and its code the one that counts."""
    for number in range(3):
        # known when it saves for the second time at the latest, and then another epoch is due
        first = prepare(tmp_path / f"{number}", 1, spec(epochs=3), ranks=RANKS)
        prepare(tmp_path / f"{number}", 2, spec())  # claimed: what the first one saves is fenced off
        process = spawn(first, RANKS, grace=60)
        try:
            assert process.wait(timeout=PATIENCE) == ExitCode.FENCED
        finally:
            end(first, process)
        assert first.manifests() == {}
        assert "rank 0 has left" in log(first, 1)


def command(started: Started, **environ: str) -> dict[str, Any]:
    """One rank, as srun starts it."""
    return {
        "args": [sys.executable, "-P", "-m", "trainer", str(started.folder)],
        "env": os.environ | {NONCE_VARIABLE: started.nonce} | environ,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }


def test_slurms_variables_are_enough_and_each_rank_says_where_it_is(tmp_path: Path) -> None:
    """What the others do without is not imported by them: times 384, that is half a minute."""
    started = prepare(tmp_path / "run", 1, spec(epochs=1), ranks=2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    shared = {
        "SLURM_NTASKS": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "6",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "PYTHONPROFILEIMPORTTIME": "1",
    }
    own = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in (0, 1)]
    ranks = [subprocess.Popen(**command(started, **shared, **variables)) for variables in own]
    outputs = [rank.communicate(timeout=PATIENCE) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [ExitCode.COMPLETED] * 2, outputs
    for rank, (out, err) in enumerate(outputs):
        word, _, facts = out.splitlines()[0].partition(" ")
        names = ("CUDA_VISIBLE_DEVICES", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "SLURM_PROCID")
        told = {name: (shared | own[rank])[name] for name in names}
        who = {"rank": rank, "count": 2, "local_rank": rank, "host": socket.gethostname(), "python": sys.executable}
        assert (word, json.loads(facts)) == ("place", who | told)
        dear = {"importlib.metadata", "argparse", "subprocess", "numpy.random", "asyncio"}
        imported = {line.rsplit("|", 1)[1].strip() for line in err.splitlines() if "|" in line}
        assert "trainer.rehearsal.trainee" in imported
        assert rank == 0 or not dear & imported
