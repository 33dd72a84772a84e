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

from tests.slurm import crashing
from tests.slurm.desk import SMALL, Said, SlurmDesk, eventually, impostor, real

CRASHING = str(Path(crashing.__file__))


def crash(desk: SlurmDesk, point: str, *arguments: str) -> None:
    said = desk.command([sys.executable, "-P", CRASHING, point, *arguments], PYTHONPATH=str(Path(CRASHING).parents[2]))
    assert said.code == -signal.SIGKILL, (said.code, said.out, said.err)


def goes_on(desk: SlurmDesk, name: str, attempts: int) -> None:
    """What a person does next: they look, and start it again where it is not alive. Exactly one job then trains."""
    said = desk.clipctl("launch", "demo", "--cluster", "emulated", "--name", name, "-y", *options())
    if said.code != 0:  # it exists: adopted, or known to have never arrived
        eventually(lambda: resumed_or_live(desk, name))
    run = desk.ended(name)
    assert run["state"] == "completed", desk.log(name)
    assert run["attempts"] <= attempts
    assert desk.jobs_of(name) == []
    assert ranks_never_met(desk, name)


def options() -> list[str]:
    return [item for text in SMALL for item in ("--set", text)]


def resumed_or_live(desk: SlurmDesk, name: str) -> bool:
    said = desk.clipctl("resume", name, "-y")
    return said.code == 0 or "may be alive" in said.err or "has completed" in said.err or "nothing is left" in said.err


def ranks_never_met(desk: SlurmDesk, name: str) -> bool:
    """Attempts that were claimed: their spans between first and last event do not overlap."""
    spans = []
    for folder in sorted(desk.folder(name).glob("attempts/*")):
        times = [event["time"] for event in desk.events(name, int(folder.name))]
        if times:
            spans.append((min(times), max(times)))
    return all(first[1] <= second[0] for first, second in pairwise(spans))


@pytest.mark.parametrize("point", crashing.POINTS)
def test_a_launch_that_was_killed_is_one_job_or_none(desk: SlurmDesk, point: str) -> None:
    crash(desk, point, *desk.launching("r"))
    goes_on(desk, "r", attempts=2)


def test_an_sbatch_that_outlives_its_caller_is_adopted(desk: SlurmDesk, tmp_path: Path) -> None:
    """K9: accepted, and nobody is left who could read the answer."""
    caller = tmp_path / "caller"
    path = impostor(tmp_path, f'job=$({real("sbatch")} "$@"); kill -9 $(cat {caller}); echo $job')
    process = desk.start(*desk.launching("r"), PATH=path)
    caller.write_text(str(process.pid))
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, (out, err)
    goes_on(desk, "r", attempts=1)


def test_an_sbatch_that_never_reached_the_controller_is_known_to_have_failed(desk: SlurmDesk, tmp_path: Path) -> None:
    """K8: connected, the request was not sent."""
    caller = tmp_path / "caller"
    path = impostor(tmp_path, f"kill -9 $(cat {caller}); exit 1")
    process = desk.start(*desk.launching("r"), PATH=path)
    caller.write_text(str(process.pid))
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    goes_on(desk, "r", attempts=2)


def test_a_resume_that_is_killed_at_any_time_starts_one_attempt_or_none(
    desk: SlurmDesk, soak: Callable[[int, int], int]
) -> None:
    draw = random.Random(11)
    desk.launched("r", "train.faults=[{kind: crash, at_epoch: 2, at_step: 3}]")
    assert desk.ended("r")["last_incident"]["kind"] == "crashed"
    for _ in range(soak(3, 500)):
        process = desk.start("resume", "r", "-y", "--force", "cancelled")
        time.sleep(draw.uniform(0.3, 2.5))
        process.kill()
        process.communicate()
        assert len(desk.jobs_of("r")) <= 1
        desk.clipctl("cancel", "r")
        eventually(lambda: desk.status("r")["state"] in ("cancelled", "completed"))
    eventually(lambda: resumed(desk) or desk.status("r")["state"] == "completed")
    assert desk.ended("r")["state"] == "completed"
    assert ranks_never_met(desk, "r")


def resumed(desk: SlurmDesk) -> bool:
    said: Said = desk.clipctl("resume", "r", "-y", "--force", "cancelled")
    return said.code == 0
