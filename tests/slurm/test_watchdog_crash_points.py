"""The watchdog killed at every place of a tick that acts: later ticks settle what it left, and there is one job."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import SOAKING
from tests.slurm.blows import urgent
from tests.slurm.crashing import BEFORE_THE_LEASE, OF_A_STOP, OF_A_TICK
from tests.slurm.desk import SlurmDesk, eventually
from tests.slurm.killing import ACCEPTED, K8, K9, NOT_SENT, crash, killed_by_its_sbatch, run_up_to
from tests.story.watch import Watch, watching

TICK = ["watchdog", "run"]
SHORT = ("train.epochs=4", "train.save.keep_last=5", "recovery.backoff=0")
OVERFLOWS = ("train.precision=amp_fp16", "train.faults=[{kind: overflow, at_epoch: 3, at_step: 3}]")
HASTE = {"lost_after": 2, "unanswered_for": 2}  # seconds
IMPATIENT = {"patience": {"training": 5}, "stop_grace": 1}


@dataclass(frozen=True)
class Cure:
    """What every attempt after the first must be."""

    parent: str
    precision: str


def after_nan(watch: Watch) -> Cure:
    watch.desk.launched("r", *SHORT, *OVERFLOWS, "recovery.rollback_epochs=1")
    run = watch.run("r")
    eventually(lambda: run.events(1, "diverged") and not watch.desk.jobs_of("r"))
    return Cure(parent="attempts/1/checkpoints/epoch_1.pt", precision="amp_bf16")


def after_preemption(watch: Watch) -> Cure:
    desk, run = watch.desk, watch.run("r")
    desk.launched("r", *SHORT, "train.rehearsal.step_seconds=0.1")
    eventually(lambda: run.saved(1))
    urgent(desk)
    eventually(lambda: not desk.jobs_of("r"))
    assert not run.completed
    return Cure(parent=run.saved(1)[-1].place, precision="fp32")


Trouble = Callable[[Watch], Cure]
# What is left at any other place is the same as at one of these, or less. `make soak` has them all.
IN_SHORT = {after_nan: ("K3", "K9"), after_preemption: ("K4",)}


def troubles_by(*points: str) -> pytest.MarkDecorator:
    """Each trouble with each point."""
    chosen = [(trouble, point) for trouble, short in IN_SHORT.items() for point in points
              if SOAKING or point.split()[0] in short]  # fmt: skip
    places = [pytest.param(trouble, point, id=f"{trouble.__name__} {point}") for trouble, point in chosen]
    return pytest.mark.parametrize(("trouble", "point"), places)


@pytest.fixture
def watch(desk: SlurmDesk) -> Iterator[Watch]:
    """Where soon is known what has never arrived."""
    desk.cluster.profile(desk.root, limits=HASTE)
    with watching(desk) as watch:
        yield watch


def jobs(watch: Watch) -> set[str]:
    """Ids of all jobs that Slurm has had of the run."""
    return set(watch.desk.jobs_of("r", "--states=all"))


def settled(watch: Watch, cure: Cure) -> None:
    """By ticks alone: one job more, which the store knows, and which trains to the end."""
    watch.until(lambda: len(jobs(watch)) == 2)
    watch.tick()
    watch.tick()
    assert watch.invariants.known() >= jobs(watch)
    run = watch.completes("r")
    assert (len(jobs(watch)), watch.desk.jobs_of("r")) == (2, [])
    for intent in run.intents()[1:]:
        told = run.attempt(intent["attempt"])
        assert Cure(told["parent"]["path"], told["train"]["precision"]) == cure


def a_broken_tick_was_noticed(watch: Watch) -> bool:
    return any("never came to its end" in line for line in watch.said)


@troubles_by(*OF_A_TICK)
def test_a_tick_that_was_killed_leaves_one_job_or_none(watch: Watch, trouble: Trouble, point: str) -> None:
    cure = trouble(watch)
    crash(watch.desk, point, *TICK)
    settled(watch, cure)
    assert a_broken_tick_was_noticed(watch) == (point != BEFORE_THE_LEASE)


@troubles_by(K8, K9)
def test_a_tick_that_was_killed_while_sbatch_was_at_it(
    watch: Watch, trouble: Trouble, point: str, tmp_path: Path
) -> None:
    cure = trouble(watch)
    killed_by_its_sbatch(watch.desk, tmp_path, {K8: NOT_SENT, K9: ACCEPTED}[point], TICK)
    settled(watch, cure)
    assert a_broken_tick_was_noticed(watch)
    assert len(watch.run("r").intents()) == {K8: 3, K9: 2}[point]


@pytest.mark.parametrize("point", list(OF_A_STOP) if SOAKING else list(OF_A_STOP)[:1])
def test_a_tick_that_was_killed_while_it_stopped_a_hung_job(watch: Watch, point: str) -> None:
    desk, run = watch.desk, watch.run("r")
    desk.cluster.profile(desk.root, limits={**HASTE, **IMPATIENT})
    desk.launched("r", *SHORT, "train.faults=[{kind: hang, at_epoch: 2, at_step: 3}]")
    eventually(lambda: run_up_to(desk, point, *TICK).code == -signal.SIGKILL)
    settled(watch, Cure(parent="attempts/1/checkpoints/epoch_1.pt", precision="fp32"))
    assert run.kinds() == ["hung"]
    assert [entry["actor"] for entry in run.entries("stop")] == ["watchdog"]


def test_ticks_that_are_killed_at_any_time(watch: Watch, soak: Callable[[int, int], int]) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # shown where it fails
    draw, desk = random.Random(seed), watch.desk
    desk.launched("r", "train.epochs=5000", "recovery.tries=10000", "recovery.backoff=0")
    for _ in range(soak(1, 100)):
        desk.trains("r")
        started = time.monotonic()
        watch.tick()
        tick = time.monotonic() - started
        before = jobs(watch)
        urgent(desk)
        eventually(lambda: not desk.jobs_of("r"))
        for _ in range(3):
            killed_after(desk, draw.uniform(0.0, 2.0) * tick)
        watch.until(lambda: desk.jobs_of("r"))
        watch.tick()
        assert {desk.status("r")["job"]["scheduler_id"]} == set(desk.jobs_of("r")) == jobs(watch) - before
    desk.clipctl("cancel", "r", "--force")
    watch.until(lambda: not desk.status("r")["job"]["live"])


def killed_after(desk: SlurmDesk, seconds: float) -> None:
    process = desk.start(*TICK)
    time.sleep(seconds)
    process.kill()
    process.communicate()
