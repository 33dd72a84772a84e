"""A rank that hangs: the others give up on it in time, and what each of them did last is kept."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from clipctl.domain import Limits
from tests.trainer.attempts import PATIENCE, digits_spec, end, log, prepare, spawn
from trainer.contract import ExitCode, Fault, FaultKind, Phase
from trainer.deadlines import SECONDS
from trainer.flight import recorded
from trainer.stacks import HUNG_AFTER

RANKS = 2
HANG = Fault(kind=FaultKind.HANG, at_epoch=1, at_step=3, rank=1)
WAITER = """
import sys, time, torch
from trainer.contract import Phase
from trainer.deadlines import SECONDS
from trainer.place import Place
from trainer.ranks import TorchRanks
SECONDS[Phase.TRAINING] = 1.0
rank = int(sys.argv[1])
ranks = TorchRanks(Place(rank=rank, count=2, local_rank=rank), torch.device("cpu"))
ranks.enter(Phase.TRAINING)
ranks.enter(Phase.EVALUATING)
if rank == 1:
    time.sleep(2.5)
print("evaluated", ranks.gather(rank), flush=True)
ranks.enter(Phase.TRAINING)
if rank == 1:
    time.sleep(2.5)
ranks.gather(rank)
print("trained", flush=True)
"""


def test_the_others_give_up_and_keep_their_last_collectives(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    train = digits_spec(digits, faults=(HANG,))
    started = prepare(tmp_path / "run", 1, train, ranks=RANKS)
    process = spawn(started, RANKS, module="tests.trainer.impatient")
    try:
        assert process.wait(timeout=PATIENCE) == ExitCode.CRASHED, log(started, 0)
    finally:
        end(started, process)
    last = started.events()[-1]
    assert (last.kind, last.facts["rank"]) == ("crashed", 0)
    assert "Timed out waiting 3000ms" in last.facts["error"]
    record = pickle.loads((started.folder / "flight" / "rank_0").read_bytes())
    assert record["entries"][-1]["timeout_ms"] == 3000, "the one that never came back is the last"
    assert not (started.folder / "flight" / "rank_1").exists(), "it hangs: its stacks say where"


def test_who_evaluates_is_waited_for_longer_than_who_trains(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "CLIPCTL_RENDEZVOUS": str(tmp_path / "meet")}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", WAITER, str(rank)],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    said = [rank.communicate(timeout=PATIENCE) for rank in ranks]
    assert [out.splitlines()[0] for out, _ in said] == ["evaluated [0, 1]"] * RANKS, said
    assert "Timed out waiting 1000ms" in said[0][1] and "trained" not in said[0][0]


def test_a_record_that_cannot_be_written_does_not_hide_the_error(tmp_path: Path) -> None:
    class Ranks:
        rank = 1

        def flight(self) -> bytes:
            return b"its collectives"

    with pytest.raises(ArithmeticError), recorded(Ranks(), tmp_path / "nowhere"):
        raise ArithmeticError


def test_ranks_say_where_they_stand_then_give_up_and_only_then_the_watchdog_ends_them() -> None:
    patience = Limits().patience
    assert HUNG_AFTER < SECONDS[Phase.TRAINING] < patience.training
    assert SECONDS[Phase.STARTING] <= patience.starting
    assert SECONDS[Phase.EVALUATING] <= patience.evaluating
