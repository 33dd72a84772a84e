"""clipctl killed at every place of a submission: what is left is always understood two looks later."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import SOAKING
from tests.slurm import crashing
from tests.slurm.desk import SlurmDesk, eventually, impostor, real

CRASHING = str(Path(crashing.__file__))
SHORT = ("train.epochs=1", "train.data.train_num_samples=80", "train.optim.warmup=1")
HASTE = {"lost_after": 2, "unanswered_for": 2}  # seconds
IN_SHORT = ("K3", "K4", "K6", "K1")  # each kind of what is left; `make soak` has them all


def crash(desk: SlurmDesk, point: str, *arguments: str) -> None:
    said = desk.command([sys.executable, "-P", CRASHING, point, *arguments], PYTHONPATH=str(Path(CRASHING).parents[2]))
    assert said.code == -signal.SIGKILL, (said.code, said.out, said.err)


def goes_on(desk: SlurmDesk, name: str, attempts: int) -> None:
    """What a person does next: look, and start it where it is not alive. Exactly one job then trains to the end."""
    desk.launch(name, *SHORT)  # done, or refused since it is there: adopted, or known to have never arrived
    eventually(lambda: forward(desk, name))
    run = desk.ended(name)
    assert (run["state"], run["attempts"] <= attempts) == ("completed", True), desk.log(name)
    assert desk.jobs_of(name) == []
    assert ranks_never_met(desk, name)


def forward(desk: SlurmDesk, name: str) -> bool:
    """One look, and a resume where nothing of the run lives. True: it has completed."""
    run = desk.looked(name)
    if not run["job"]["live"] and run["state"] != "completed":
        desk.clipctl("resume", name, "-y", "--force", "cancelled")
    return bool(run["state"] == "completed")


def ranks_never_met(desk: SlurmDesk, name: str) -> bool:
    """Attempts that were claimed: their spans between first and last event do not overlap."""
    spans = []
    for folder in sorted(desk.folder(name).glob("attempts/*")):
        times = [event["time"] for event in desk.events(name, int(folder.name))]
        if times:
            spans.append((min(times), max(times)))
    return all(first[1] <= second[0] for first, second in pairwise(spans))


@pytest.mark.parametrize("point", [point for point in crashing.POINTS if SOAKING or point[:2] in IN_SHORT])
def test_a_launch_that_was_killed_is_one_job_or_none(desk: SlurmDesk, point: str) -> None:
    desk.cluster.profile(desk.root, limits=HASTE)
    crash(desk, point, *desk.launching("r", *SHORT))
    if point.startswith("K3"):  # a folder that no store knows, and from which nothing ran: the hint says what to type
        refused = desk.launch("r", *SHORT)
        assert refused.code == 5 and "is in use already" in refused.err
        assert "clipctl db rebuild" in refused.err
        assert desk.clipctl("db", "rebuild").code == 0
    goes_on(desk, "r", attempts=2)


def test_an_sbatch_that_outlives_its_caller_is_adopted(desk: SlurmDesk, tmp_path: Path) -> None:
    """K9: accepted, and nobody is left who could read the answer."""
    caller = tmp_path / "caller"
    path = impostor(tmp_path, f'job=$({real("sbatch")} "$@"); kill -9 $(cat {caller}); echo $job')
    process = desk.start(*desk.launching("r", *SHORT), PATH=path)
    caller.write_text(str(process.pid))
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, (out, err)
    goes_on(desk, "r", attempts=1)


def test_an_sbatch_that_never_reached_the_controller_is_known_to_have_failed(desk: SlurmDesk, tmp_path: Path) -> None:
    """K8: connected, the request was not sent."""
    caller = tmp_path / "caller"
    path = impostor(tmp_path, f"kill -9 $(cat {caller}); exit 1")
    process = desk.start(*desk.launching("r", *SHORT), PATH=path)
    caller.write_text(str(process.pid))
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    goes_on(desk, "r", attempts=2)


def test_a_resume_that_is_killed_at_any_time_starts_one_attempt_or_none(
    desk: SlurmDesk, soak: Callable[[int, int], int]
) -> None:
    draw = random.Random(11)
    desk.cluster.profile(desk.root, limits=HASTE)
    desk.launched("r", "train.epochs=2", "train.faults=[{kind: crash, at_epoch: 2, at_step: 3}]")
    assert desk.ended("r")["last_incident"]["kind"] == "crashed"
    for _ in range(soak(3, 500)):
        process = desk.start("resume", "r", "-y", "--force", "cancelled", "--set", "train.epochs=40")
        time.sleep(draw.uniform(0.3, 2.5))
        process.kill()
        process.communicate()
        assert len(desk.jobs_of("r")) <= 1
        desk.clipctl("cancel", "r", "--force")
        eventually(lambda: not desk.looked("r")["job"]["live"])
    desk.resumed("r", "--force", "cancelled", "--epoch", "1", "--set", "train.epochs=2")
    assert desk.ended("r")["state"] == "completed"
    assert ranks_never_met(desk, "r")
