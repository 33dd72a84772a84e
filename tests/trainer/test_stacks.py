"""When nothing moves any more, the attempt's folder says where each of its ranks stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.attempts import PATIENCE, Started, end, prepare, rehearsal_spec, spawn
from trainer.contract import ExitCode, Fault, FaultKind

RANKS = 2
HANG = Fault(kind=FaultKind.HANG, at_epoch=1, at_step=3, rank=1)
HUNG = """
import sys, time
from contextlib import closing
from pathlib import Path
from trainer import stacks
stacks.HUNG_AFTER = 0.2
with closing(stacks.Stacks(Path(sys.argv[1]), 0)) as here:
    here.moved()
    time.sleep(1)
"""


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def test_the_rank_that_hangs_is_known_by_where_it_stands_and_the_others_by_what_they_wait_for(tmp_path: Path) -> None:
    started = prepare(tmp_path / "run", 1, rehearsal_spec(faults=(HANG,)), ranks=RANKS)
    process = spawn(started, RANKS, module="tests.trainer.impatient")
    try:
        started.wait_for(lambda started: started.events("progress"))
        started.wait_for(lambda started: all("in run" in stacks(started, rank) for rank in range(RANKS)))
    finally:
        end(started, process)
    assert "faults.py" in stacks(started, 1) and "in _strike" in stacks(started, 1)
    assert "faults.py" not in stacks(started, 0) and "in agree" in stacks(started, 0)


def test_who_moves_or_has_ended_tells_nobody_where_it_stands(tmp_path: Path) -> None:
    slow = Fault(kind=FaultKind.SLOW_RANK, at_epoch=1, at_step=1, rank=1, seconds=0.1)
    started = prepare(tmp_path / "run", 1, rehearsal_spec(epochs=2, faults=(slow,)), ranks=RANKS)
    process = spawn(started, RANKS, module="tests.trainer.impatient")
    try:
        assert process.wait(timeout=PATIENCE) == ExitCode.COMPLETED
    finally:
        end(started, process)
    assert not list(started.folder.glob("flight/stacks_*"))


def test_without_room_for_a_file_it_is_the_log_that_says_it(tmp_path: Path) -> None:
    """A folder that does not exist has no room for one."""
    ended = subprocess.run([sys.executable, "-c", HUNG, str(tmp_path / "gone")], capture_output=True, text=True)
    assert ended.returncode == 0
    assert "Timeout (0:00:00.2" in ended.stderr and "in <module>" in ended.stderr


def stacks(started: Started, rank: int) -> str:
    file = started.folder / "flight" / f"stacks_{rank}.txt"
    return file.read_text() if file.exists() else ""
