"""When nothing moves any more, the logs of all ranks say where each of them stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.attempts import PATIENCE, end, log, prepare, rehearsal_spec, spawn
from trainer.contract import ExitCode, Fault, FaultKind

RANKS = 2
HANG = Fault(kind=FaultKind.HANG, at_epoch=1, at_step=3, rank=1)


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def test_the_rank_that_hangs_is_known_by_where_it_stands_and_the_others_by_what_they_wait_for(tmp_path: Path) -> None:
    started = prepare(tmp_path / "run", 1, rehearsal_spec(faults=(HANG,)), ranks=RANKS)
    process = spawn(started, RANKS, module="tests.trainer.impatient")
    try:
        started.wait_for(lambda started: started.events("progress"))
        started.wait_for(lambda started: all("Timeout (" in log(started, rank) for rank in range(RANKS)))
        started.wait_for(lambda started: all("in run" in log(started, rank) for rank in range(RANKS)))
    finally:
        end(started, process)
    assert "faults.py" in log(started, 1) and "in _strike" in log(started, 1)
    assert "faults.py" not in log(started, 0) and "in agree" in log(started, 0)


def test_who_moves_or_has_ended_tells_nobody_where_it_stands(tmp_path: Path) -> None:
    slow = Fault(kind=FaultKind.SLOW_RANK, at_epoch=1, at_step=1, rank=1, seconds=0.1)
    started = prepare(tmp_path / "run", 1, rehearsal_spec(epochs=2, faults=(slow,)), ranks=RANKS)
    process = spawn(started, RANKS, module="tests.trainer.impatient")
    try:
        assert process.wait(timeout=PATIENCE) == ExitCode.COMPLETED
    finally:
        end(started, process)
    assert not any("Timeout (" in log(started, rank) for rank in range(RANKS))
