"""A tick that is told to end, as by Ctrl-C, a time limit of cron's or a shutdown."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from clipctl.store import lease
from tests.slurm.desk import PATIENCE, SlurmDesk, eventually, impostor, real
from tests.story.run_files import RunFiles


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_first_does_what_it_has_decided(desk: SlurmDesk, tmp_path: Path, number: signal.Signals) -> None:
    """It comes while the tick's sbatch has not answered."""
    desk.launched("r", "train.faults=[{kind: crash, at_epoch: 2, at_step: 3}]", "recovery.backoff=0")
    eventually(lambda: desk.events("r", 1, "crashed") and not desk.jobs_of("r"))
    asked, go = tmp_path / "asked", tmp_path / "go"
    path = impostor(tmp_path, f'touch {asked}; until [ -e {go} ]; do sleep 0.1; done; exec {real("sbatch")} "$@"')
    tick = desk.start("watchdog", "run", PATH=path)
    eventually(asked.exists)
    tick.send_signal(number)
    go.touch()
    out, err = tick.communicate(timeout=PATIENCE)
    assert (tick.returncode, err) == (0, "") and "r: resubmit: crashed" in out
    run, term = RunFiles(desk.folder("r")), lease.newest(desk.home)
    assert term is not None and term.over
    assert [entry["answer"] for entry in run.entries("answer")] == ["accepted"] * 2
    assert desk.ended("r")["state"] == "completed"
