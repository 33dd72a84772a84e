"""`clipctl eval` on a real Slurm: scores of a real checkpoint, and jobs that end without a word of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clipctl.ops.digits import write_digits
from tests.slurm.blows import everywhere
from tests.slurm.desk import SlurmDesk
from tests.story.watch import Watch
from tests.trainer.benchmark_sets import classified, digits_of

ONE_EPOCH = ("train.epochs=1", "train.data.workers=0", "train.zeroshot=null", "train.precision=fp32")


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    pictures = digits_of(write_digits(tmp_path / "digits").folder)[::8]
    classified(tmp_path / "sets", "digits", pictures)
    return tmp_path / "sets"


def begun(desk: SlurmDesk, sets: Path) -> str:
    """The id of the job."""
    asked = ("eval", "digits", "--epoch", "1", "--dataset", "digits", "--dataset-root", str(sets), "-y", "--json")
    said = desk.clipctl(*asked)
    assert said.code == 0, said.err
    return str(json.loads(said.out)["submitted"])


def seen(desk: SlurmDesk, job: str) -> dict[str, Any]:
    told = json.loads(desk.clipctl("evals", "digits", "--json").out)["evaluations"]
    (found,) = [each for each in told if each["scheduler_id"] == job]
    return dict(found)


def test_a_checkpoint_is_scored_and_who_is_killed_without_a_word_is_told(accounted_watch: Watch, sets: Path) -> None:
    watch, desk = accounted_watch, accounted_watch.desk
    nodes = ("resources.nodes=1", "resources.ranks_per_node=1")
    options = [item for text in (*ONE_EPOCH, *nodes) for item in ("--set", text)]
    said = desk.clipctl("launch", "demo", "--cluster", "emulated", "--name", "digits", "-y", *options)
    assert said.code == 0, said.err
    watch.completes("digits")

    job = begun(desk, sets)
    watch.until(lambda: seen(desk, job)["state"] == "done")
    assert 0 < seen(desk, job)["scores"]["digits"]["acc1"] <= 1

    others = everywhere(desk)
    job = begun(desk, sets)
    desk.cluster.run("scancel", job)
    watch.until(lambda: seen(desk, job)["state"] == "failed")
    assert seen(desk, job)["reason"] == "the scheduler says CANCELLED", "it never started"
    desk.cluster.run("scancel", others)

    desk.cluster.profile(desk.root, setup=["sleep 1000"])  # it is not over when its node dies
    job = begun(desk, sets)
    watch.until(lambda: desk.cluster.run("squeue", "-h", "-j", job, "-o", "%T").stdout.strip() == "RUNNING")
    node = desk.cluster.run("squeue", "-h", "-j", job, "-o", "%N").stdout.strip()
    desk.cluster.kill_node(node)
    watch.until(lambda: seen(desk, job)["state"] == "failed")
    assert seen(desk, job)["reason"] == "the scheduler says NODE_FAIL"
    assert "failed (the scheduler says NODE_FAIL), 0 of 1 set" in desk.clipctl("evals", "digits").out
    assert watch.stays("digits").completed
