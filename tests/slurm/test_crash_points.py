"""clipctl killed at every place of a submission: what is left is always understood two looks later."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import SOAKING
from tests.slurm import crashing
from tests.slurm.desk import SlurmDesk, eventually
from tests.slurm.killing import ACCEPTED, K8, K9, NOT_SENT, crash, killed_by_its_sbatch
from tests.slurm.witness import of_one_job_at_a_time

SHORT = ("train.epochs=1", "train.data.train_num_samples=80", "train.optim.warmup=1")
CRASHED = (*SHORT, "train.epochs=2", "train.faults=[{kind: crash, at_epoch: 2, at_step: 3}]")
HASTE = {"lost_after": 2, "unanswered_for": 2}  # seconds


@dataclass(frozen=True)
class Submission:
    command: list[str]
    attempt: int  # that it starts


def launch(desk: SlurmDesk) -> Submission:
    return Submission(desk.launching("r", *SHORT), attempt=1)


def resume(desk: SlurmDesk) -> Submission:
    """Of a run that has crashed."""
    desk.launched("r", *CRASHED)
    assert desk.ended("r")["last_incident"]["kind"] == "crashed"
    return Submission(["resume", "r", "-y"], attempt=2)


Way = Callable[[SlurmDesk], Submission]
# Each kind of what is left; all others leave the same as one of these, or less. `make soak` has them all.
IN_SHORT = {launch: ("K3", "K4", "K8", "K9"), resume: ("K3", "K4", "K9")}


def ways_to(*points: str) -> pytest.MarkDecorator:
    """Each submission with each point."""
    chosen = [(way, point) for way, short in IN_SHORT.items() for point in points
              if SOAKING or point.split()[0] in short]  # fmt: skip
    places = [pytest.param(way, point, id=f"{way.__name__} {point}") for way, point in chosen]
    return pytest.mark.parametrize(("way", "point"), places)


@pytest.fixture
def desk(desk: SlurmDesk) -> SlurmDesk:
    """Where soon is known what has never arrived."""
    desk.cluster.profile(desk.root, limits=HASTE)
    return desk


def goes_on(desk: SlurmDesk, command: list[str], attempts: int) -> None:
    """What a person does next: type it again, look, and resume where it is not alive. Exactly one job then trains to
    the end."""
    nothing_is_orphaned(desk)
    desk.clipctl(*command)  # done, or refused since it is there
    eventually(lambda: forward(desk))
    run = desk.ended("r")
    assert (run["state"], run["attempts"] <= attempts) == ("completed", True), desk.log("r")
    assert desk.jobs_of("r") == []
    assert ranks_never_met(desk)


def nothing_is_orphaned(desk: SlurmDesk) -> None:
    """Two looks later the store names every job that Slurm has had of the run, and knows which one lives."""
    if desk.clipctl("status", "r").code:  # not even intended, so nothing lives
        assert desk.cluster.run("squeue", "--noheader").stdout == ""
        return
    desk.looked("r")
    time.sleep(max(HASTE.values()) + 0.5)
    job = desk.looked("r")["job"]
    attempts = json.loads(desk.clipctl("show", "r", "--json").out)["lineage"]
    known = {job["scheduler_id"] for attempt in attempts for job in attempt["jobs"]}
    assert known - {None} == set(desk.jobs_of("r", "--states=all"))
    assert job["scheduler_id"] if job["live"] else desk.jobs_of("r") == []


def forward(desk: SlurmDesk) -> bool:
    """One look, and a resume where nothing of the run lives. True: it has completed."""
    run = desk.looked("r")
    if not run["job"]["live"] and run["state"] != "completed":
        desk.clipctl("resume", "r", "-y")
    return bool(run["state"] == "completed")


def ranks_never_met(desk: SlurmDesk) -> bool:
    """Attempts that were claimed: their spans between first and last event do not overlap."""
    spans = []
    for folder in sorted(desk.folder("r").glob("attempts/*"), key=lambda folder: int(folder.name)):
        times = [event["time"] for event in desk.events("r", int(folder.name))]
        if times:
            spans.append((min(times), max(times)))
    return all(first[1] <= second[0] for first, second in pairwise(spans))


@ways_to(*crashing.OF_A_COMMAND)
def test_a_submission_that_was_killed_is_one_job_or_none(desk: SlurmDesk, way: Way, point: str) -> None:
    submission = way(desk)
    with of_one_job_at_a_time(desk.cluster.folder):
        crash(desk, point, *submission.command)
        if way is launch and point.startswith("K3"):
            made_known(desk, submission)
        goes_on(desk, submission.command, attempts=submission.attempt + 1)


def made_known(desk: SlurmDesk, submission: Submission) -> None:
    """A folder that no store knows, and from which nothing ran: the hint says what makes it known."""
    refused = desk.clipctl(*submission.command)
    assert refused.code == 5 and "is in use already" in refused.err
    assert "clipctl db rebuild" in refused.err
    assert desk.clipctl("db", "rebuild").code == 0


@ways_to(K9)
def test_an_sbatch_that_outlives_its_caller_is_adopted(desk: SlurmDesk, way: Way, point: str, tmp_path: Path) -> None:
    submission = way(desk)
    with of_one_job_at_a_time(desk.cluster.folder):
        killed_by_its_sbatch(desk, tmp_path, ACCEPTED, submission.command)
        goes_on(desk, submission.command, attempts=submission.attempt)


@ways_to(K8)
def test_an_sbatch_that_never_reached_the_controller_is_known_to_have_failed(
    desk: SlurmDesk, way: Way, point: str, tmp_path: Path
) -> None:
    submission = way(desk)
    with of_one_job_at_a_time(desk.cluster.folder):
        killed_by_its_sbatch(desk, tmp_path, NOT_SENT, submission.command)
        goes_on(desk, submission.command, attempts=submission.attempt + 1)


def test_a_resume_that_is_killed_at_any_time_starts_one_attempt_or_none(
    desk: SlurmDesk, soak: Callable[[int, int], int]
) -> None:
    draw = random.Random(11)
    resume(desk)
    with of_one_job_at_a_time(desk.cluster.folder):
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
    assert ranks_never_met(desk)
