"""Rehearsed failures: let loose at their place, the arithmetic ones in every attempt, the others once a run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.contract import Fault, FaultKind
from trainer.faults import Faults, RehearsedCrash
from trainer.position import Position
from trainer.schedule import Geometry

GEOMETRY = Geometry(train_num_samples=640, batch_size=32, ranks=2, workers=1)  # ten steps an epoch


class Listed:
    """A trainee that only remembers what it was told to rehearse."""

    def __init__(self) -> None:
        self.told: list[FaultKind] = []

    def rehearse(self, kind: FaultKind) -> None:
        self.told.append(kind)


def before_step(epoch: int, step: int) -> Position:
    return Position(GEOMETRY, epochs_done=epoch - 1, step_in_epoch=step - 1)


def fault(kind: FaultKind, **facts: float) -> Fault:
    return Fault(**({"kind": kind, "at_epoch": 2, "at_step": 3} | facts))


def test_arithmetic_changes_before_its_step_and_once_in_an_attempt(tmp_path: Path) -> None:
    trainee, faults = Listed(), Faults([fault(FaultKind.OVERFLOW)], 0, tmp_path)
    places = [(1, 10), (2, 2), (2, 3), (2, 4), (3, 1)]
    struck = [faults.let_loose(before_step(*place), trainee) for place in places]
    assert struck == [[], [], [FaultKind.OVERFLOW], [], []]
    assert trainee.told == [FaultKind.OVERFLOW]


def test_arithmetic_is_changed_from_the_start_in_an_attempt_that_begins_behind_its_place(tmp_path: Path) -> None:
    for _ in range(2):
        trainee = Listed()
        Faults([fault(FaultKind.PLATEAU)], 0, tmp_path).let_loose(before_step(5, 1), trainee)
        assert trainee.told == [FaultKind.PLATEAU]


def test_a_crash_strikes_its_rank_once_a_run(tmp_path: Path) -> None:
    crash = [fault(FaultKind.CRASH, rank=1)]
    assert Faults(crash, 0, tmp_path / "run").let_loose(before_step(2, 3), Listed()) == []
    with pytest.raises(RehearsedCrash, match="epoch 2, step 3"):
        Faults(crash, 1, tmp_path / "run").let_loose(before_step(2, 3), Listed())
    assert Faults(crash, 1, tmp_path / "run").let_loose(before_step(2, 3), Listed()) == []
    with pytest.raises(RehearsedCrash):
        Faults(crash, 1, tmp_path / "another run").let_loose(before_step(2, 3), Listed())


def test_a_slow_rank_is_slow_from_its_step_on(tmp_path: Path) -> None:
    faults = Faults([fault(FaultKind.SLOW_RANK, seconds=0.05)], 0, tmp_path)
    assert faults.let_loose(before_step(2, 2), Listed()) == []
    for step in (3, 4):
        before = time.monotonic()
        faults.let_loose(before_step(2, step), Listed())
        assert time.monotonic() - before >= 0.05


def test_a_rank_that_hangs_does_not_even_hear_sigterm(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from trainer.contract import Fault, FaultKind;"
        "from trainer.faults import Faults; from trainer.position import Position;"
        "from trainer.schedule import Geometry;"
        "from trainer.signals import StopRequest\n"
        "StopRequest().listen()\n"
        "print('here', flush=True)\n"
        "faults = Faults([Fault(kind=FaultKind.HANG, at_epoch=1)], 0, Path(sys.argv[1]))\n"
        "faults.let_loose(Position(Geometry(640, 32, 2, 1)), None)\n"
        "print('went on', flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "faults")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            while not (tmp_path / "faults").exists():
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=1)
        finally:
            process.kill()
        assert process.stdout.read() == ""
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert again.stdout == "here\nwent on\n", "once a run"
