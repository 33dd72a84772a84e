"""A checkpoint that a person asks for: written at a step's border, and not a bit of the run is changed by it."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainer.attempts import PATIENCE, Started, end, log, prepare, rehearsal_spec, run_here, signal_all, spawn
from trainer.contract import Claim, ExitCode, Fault, FaultKind, SaveNow, dumps, loads, write_atomic
from trainer.save_now import SaveRequests
from trainer.signals import StopRequest
from trainer.verify import damage

RANKS = 3
# 40 steps of a fifth of a second: long enough to be asked in
SLOW = rehearsal_spec(epochs=1, data={"train_num_samples": 40 * 16 * RANKS}, faults=(
    Fault(kind=FaultKind.SLOW_RANK, at_epoch=1, at_step=1, rank=1, seconds=0.2),
))  # fmt: skip


def ask(started: Started, number: int) -> None:
    write_atomic(started.folder / "save-now.json", dumps(SaveNow(number=number, actor="ada", time=1.0)))


def requests(started: Started) -> dict[int, int]:
    """By number: the step at which it was met."""
    checkpoints = started.events("checkpoint")
    return {event.facts["request"]: event.step for event in checkpoints if "request" in event.facts}


def test_all_ranks_go_on_as_if_nobody_had_asked(tmp_path: Path) -> None:
    whole = prepare(tmp_path / "whole", 1, SLOW, ranks=RANKS)
    assert spawn(whole, RANKS).wait(timeout=PATIENCE) == ExitCode.COMPLETED, log(whole, 0)
    asked = prepare(tmp_path / "run", 1, SLOW, ranks=RANKS)
    process = spawn(asked, RANKS)
    try:
        asked.wait_for(lambda started: started.events("progress"))
        for number in (1, 2):
            ask(asked, number)
            asked.wait_for(lambda started, number=number: number in requests(started))
        assert process.wait(timeout=PATIENCE) == ExitCode.COMPLETED, log(asked, 0)
    finally:
        end(asked, process)
    assert asked.losses() == whole.losses()
    first, second = requests(asked).values()
    assert 0 < first < second < 40
    saved = asked.manifests()
    assert {f"steps/step_{first}.pt", f"steps/step_{second}.pt"} <= saved.keys()
    assert all(damage(asked.folder / name, manifest) is None for name, manifest in saved.items())
    told = {event.facts["path"]: event.facts["manifest"] for event in asked.events("checkpoint")}
    assert told[f"steps/step_{first}.pt"]["digest"] == saved[f"steps/step_{first}.pt"].digest


def test_a_stop_that_comes_with_the_request_meets_it(tmp_path: Path) -> None:
    started = prepare(tmp_path / "run", 1, SLOW, ranks=RANKS)
    process = spawn(started, RANKS)
    try:
        started.wait_for(lambda started: started.events("progress"))
        ask(started, 1)
        signal_all(started, signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == ExitCode.STOPPED, log(started, 0)
    finally:
        end(started, process)
    final = started.events()[-1]
    assert final.kind == "stopped"
    assert final.facts["checkpoint"] in started.manifests()
    assert len(requests(started)) <= 1


@pytest.fixture
def seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look is taken before the first step instead of beside it: what follows does not depend on a thread."""

    def watch(self: SaveRequests) -> None:
        self._look()

    monkeypatch.setattr(SaveRequests, "watch", watch)


def test_a_request_is_met_once_even_if_the_site_starts_the_job_again(
    tmp_path: Path, seen_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = prepare(tmp_path / "run", 1, rehearsal_spec(epochs=1))
    ask(started, 1)
    stop = StopRequest()
    stop.signal = signal.SIGTERM
    assert run_here(started, stop) == ExitCode.STOPPED
    (step,) = requests(started).values()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    held = started.folder / "claim"
    held.write_text(dumps(replace(loads(Claim, held.read_bytes()), restart_count=1)))
    assert run_here(started) == ExitCode.COMPLETED
    assert requests(started) == {1: step}


def test_what_is_no_request_changes_nothing(tmp_path: Path, seen_at_once: None) -> None:
    started = prepare(tmp_path / "run", 1, rehearsal_spec(epochs=1))
    (started.folder / "save-now.json").write_text('{"number": "two"')
    assert run_here(started) == ExitCode.COMPLETED
    assert list(started.manifests()) == ["checkpoints/epoch_1.pt"]
