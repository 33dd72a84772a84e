"""What people do to a job is final for the watchdog: it says so, and waits for a word."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator

import pytest

from tests.slurm.desk import SlurmDesk
from tests.story.watch import Watch

LONG = "train.epochs=200"


def test_a_job_that_its_user_scancelled(accounted_watch: Watch) -> None:
    """F17: no resubmission, until somebody says so; and it is told why."""
    watch, desk = accounted_watch, accounted_watch.desk
    desk.cluster.run("scancel", started(desk))
    assert "cancelled" in watch.held("r")
    run = watch.stays("r")
    assert run.kinds() == ["cancelled_by_user"]
    assert desk.status("r")["state"] == "held"


@pytest.fixture
def administrator(accounted_watch: Watch) -> Iterator[pwd.struct_passwd]:
    """Another user, who may end anybody's jobs."""
    user, cluster = pwd.getpwnam("nobody"), accounted_watch.desk.cluster
    cluster.run("sacctmgr", "-i", "add", "user", user.pw_name, "account=clip", "adminlevel=Operator")
    yield user
    cluster.run("sacctmgr", "-i", "delete", "user", user.pw_name)


def test_a_job_that_an_administrator_scancelled(accounted_watch: Watch, administrator: pwd.struct_passwd) -> None:
    """F18."""
    watch, desk = accounted_watch, accounted_watch.desk
    job = started(desk)
    subprocess.run(
        ["scancel", job], check=True, cwd="/", user=administrator.pw_uid, group=administrator.pw_gid,
        env=os.environ | desk.cluster.environ,
    )  # fmt: skip
    assert f"by user {administrator.pw_uid}" in watch.held("r")
    assert watch.stays("r").kinds() == ["cancelled_by_admin"]


def test_a_hold_outlives_whatever_ends_the_job(watch: Watch) -> None:
    """And after the release it goes on."""
    desk = watch.desk
    desk.launched("r", "train.epochs=4", "train.faults=[{kind: crash, at_epoch: 2, at_step: 3}]", "recovery.backoff=0")
    assert desk.clipctl("hold", "r").code == 0
    run = watch.run("r")
    watch.until(lambda: run.entries("end"))
    watch.stays("r")
    assert desk.clipctl("release", "r").code == 0
    watch.completes("r")
    assert (run.kinds(), len(run.intents())) == (["crashed"], 2)


def started(desk: SlurmDesk) -> str:
    job = desk.launched("r", LONG)
    desk.trains("r")
    return job
