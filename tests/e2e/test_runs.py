"""From launch to the end and back: real processes, real overflow, real signals."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from clipctl.errors import ExitStatus
from tests.e2e.conftest import SMALL, Desk

OVERFLOW = "train.faults=[{kind: overflow, at_epoch: 2, at_step: 10}]"
LONG = 1200.0  # seconds; the whole demo takes 70 where nothing else runs


@pytest.mark.timeout(2 * LONG)
def test_the_demo_overflows_in_half_precision_and_reads_digits_in_single(desk: Desk):
    """The README's tour, in full: diverged, said so, gone back, completed; the tree shows all of it."""
    two = ("--set", "resources.ranks_per_node=2")
    half = ("--set", "train.precision=amp_fp16", "--set", OVERFLOW)
    said = desk.clipctl("launch", "demo", "--name", "nan", *two, *half, "--follow", patience=LONG)
    assert said.code == ExitStatus.DIVERGED, said
    assert "REHEARSAL: carries the fault overflow from epoch 2, step 10" in said.out
    assert "error: nan diverged at epoch 2, step 10 (loss nan)" in said.err
    assert "hint: clipctl resume nan --epoch 1 --precision amp_bf16" in said.err

    status = desk.clipctl("status").out
    assert "diverged at epoch 2, step 10" in status
    assert "next: clipctl resume nan --epoch 1 --precision amp_bf16" in status
    assert "REHEARSAL" in status
    run = desk.status("nan")
    assert (run["state"], run["last_incident"]["kind"]) == ("stopped", "diverged")

    assert "add -y" in desk.clipctl("resume", "nan").err
    said = desk.clipctl("resume", "--epoch", "2", "--precision", "fp32", "-y", "--follow", patience=LONG)
    assert said.code == 0, said
    assert "train.batch_size  32 -> 48" in said.out
    assert "steps an epoch    60 -> 40" in said.out
    top1 = re.search(r"^zero-shot top-1 ([\d.]+)% on 355 held-out samples$", said.out, re.MULTILINE)
    assert top1
    assert float(top1[1]) >= 94
    run = desk.status("nan")
    assert (run["state"], run["attempts"], run["batch_size"]) == ("completed", 2, 48)

    tree = desk.clipctl("show", "nan").out
    assert "attempt 1: from the start; amp_fp16, 2 x 32" in tree
    assert "diverged at epoch 2, step 10 (loss nan)" in tree
    assert "    └── attempt 2: from attempts/1/checkpoints/epoch_1.pt; fp32, 2 x 48; 38,400 samples; completed" in tree
    assert "precision: amp_fp16 -> fp32" in tree
    assert desk.clipctl("checkpoints", "nan", "--verify").out.count("verified") == 6, "the parent, and the last five"


@pytest.mark.timeout(600)
def test_a_run_that_is_told_to_stop_goes_on_where_it_stood(desk: Desk):
    """SIGTERM to every process of the job at once, as slurmstepd does."""
    long = ("train.data.train_num_samples=14400", "train.epochs=1", "train.zeroshot=null")  # outlasts a look
    assert desk.launch("term", *long).code == 0
    desk.wait("term", lambda run: (run["progress"]["step"] or 0) >= 3)
    desk.signal(signal.SIGTERM)
    run = desk.wait("term", lambda run: run["state"] == "stopped" and not run["job"]["live"])
    assert run["last_incident"]["kind"] == "stopped"
    assert run["last_checkpoint"]["path"].startswith("attempts/1/steps/step_")
    said = desk.clipctl("resume", "-y", "--follow")
    assert said.code == 0, said
    first, second = desk.losses("term", 1), desk.losses("term", 2)
    assert max(first) < 300
    assert sorted([*first, *second]) == list(range(1, 301)), "every step once"


@pytest.mark.timeout(600)
def test_kill_9_of_everything_is_lost_and_loses_nothing(desk: Desk):
    long = ("train.data.train_num_samples=480", "train.epochs=40", "train.zeroshot=null")
    with desk.watching("kill", *long) as follower:
        desk.wait("kill", lambda run: run["last_checkpoint"] is not None)
        follower.kill()  # the one who watches dies first: nothing happens to the job
    step = desk.status("kill")["progress"]["step"]
    desk.wait("kill", lambda run: run["progress"]["step"] > step)
    desk.signal(signal.SIGKILL)
    desk.wait("kill", lambda run: run["state"] == "stopped")
    said = desk.clipctl("resume", "kill", "--dry-run")
    assert said.code == 0, said
    assert "lost; the newest good checkpoint" in said.out
    assert desk.status("kill")["last_incident"]["kind"] == "lost"
    assert desk.clipctl("checkpoints", "kill", "--verify").code == 0


@pytest.mark.timeout(600)
def test_ctrl_c_ends_the_watching_and_cancel_the_run(desk: Desk):
    with desk.watching("watched", "train.epochs=500", "train.zeroshot=null") as follower:
        desk.wait("watched", lambda run: run["progress"]["step"] is not None)
        os.killpg(follower.pid, signal.SIGINT)
        _, err = follower.communicate(timeout=60)
    assert follower.returncode == ExitStatus.INTERRUPTED
    assert "watched goes on: clipctl status watched" in err
    assert "Traceback" not in err
    step = desk.status("watched")["progress"]["step"]
    desk.wait("watched", lambda run: run["progress"]["step"] > step)
    assert "may be alive" in desk.clipctl("resume", "watched", "-y").err
    assert desk.clipctl("cancel", "watched").code == 0
    run = desk.wait("watched", lambda run: run["state"] == "cancelled")
    assert run["next"] == "clipctl resume watched --force cancelled"
    assert desk.clipctl("resume", "watched", "-y").code == ExitStatus.REFUSED


@pytest.mark.timeout(1800)
def test_kill_9_of_a_launch_at_any_moment_starts_one_job_or_none_and_status_knows(
    desk: Desk, soak: Callable[[int, int], int]
):
    options = [item for text in SMALL for item in ("--set", text)]
    desk.clipctl("data", "digits")
    draw = random.Random(7)
    for number in range(soak(4, 100)):
        run = desk.home / "runs" / f"k{number}"
        command = [sys.executable, "-m", "clipctl", "launch", "demo", "--name", run.name, *options]
        launch = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not run.exists() and launch.poll() is None:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 1.0))
        launch.kill()
        launch.wait()

        known = desk.clipctl("status", run.name, "--json")
        assert known.code in (ExitStatus.OK, ExitStatus.NOT_FOUND), known
        assert len(list(run.glob("jobs/*/submission.sh"))) <= 1
        if known.code == ExitStatus.NOT_FOUND:
            assert not any(run.name.encode() in _arguments(process.pid) for process in desk.processes())
            said = desk.clipctl("launch", "demo", "--name", run.name, *options)
            if said.code == ExitStatus.REFUSED:  # the intent was written, and not yet committed
                assert "clipctl db rebuild" in said.err
                assert desk.clipctl("db", "rebuild").code == ExitStatus.OK
                said = desk.clipctl("status", run.name)
            assert said.code == ExitStatus.OK, said
        else:
            assert json.loads(known.out)["runs"][0]["state"] in ("queued", "unknown", "running")
            assert desk.clipctl("resume", run.name, "-y").code == ExitStatus.REFUSED
            assert len(list(run.glob("attempts/*"))) <= 1
        desk.signal(signal.SIGKILL)


def _arguments(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()
