"""A job that stands by in a real queue: it goes on by itself where it may, and is in nobody's way where it may not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.slurm.desk import PATIENCE, SlurmDesk, eventually

LONG = "train.epochs=200"
STANDBY = "recovery.standby=true"


def watch(desk: SlurmDesk) -> str:
    said = desk.clipctl("watchdog", "run")
    assert said.code in (0, 9), said.err  # 9: a run waits for a person
    return said.out


def standing_by(desk: SlurmDesk, name: str) -> dict[str, Any]:
    """Once the watchdog has put it into the queue behind the run's job."""
    desk.trains(name)
    watch(desk)
    standby = desk.status(name)["standby"]
    assert standby is not None, desk.log(name)
    return dict(standby)


def decided(desk: SlurmDesk, name: str) -> list[str]:
    lines = (desk.folder(name) / "decisions.jsonl").read_text().splitlines()
    return [json.loads(line)["kind"] for line in lines]


def left(desk: SlurmDesk, name: str, nonce: str) -> int:
    """The code of the job's script, once it is over."""
    path = desk.folder(name) / "jobs" / nonce / "exit.json"
    eventually(path.exists)
    return int(json.loads(path.read_text())["code"])


def script_log(desk: SlurmDesk, name: str, nonce: str) -> str:
    return (desk.folder(name) / "jobs" / nonce / "logs" / "script.log").read_text()


def refused(desk: SlurmDesk, name: str) -> str:
    """Why a person cannot resume it now."""
    said = desk.clipctl("resume", name, "-y")
    assert said.code == 5, said.out
    return said.err


def test_at_the_end_of_wall_time_the_next_job_goes_on_at_that_very_step(desk: SlurmDesk) -> None:
    """With nobody there: the watchdog hears of it afterwards."""
    first = desk.launched("r", LONG, STANDBY, "slurm.time=00:10:00", "slurm.save_before_end=60")
    standby = standing_by(desk, "r")
    assert f"standby     job {standby['scheduler_id']}, PENDING (Dependency)" in desk.clipctl("status", "r").out
    desk.cluster.run("scontrol", "update", f"jobid={first}", "timelimit=1")
    eventually(lambda: desk.events("r", 2, "progress"), 2 * PATIENCE)
    (stopped,), (started,) = desk.events("r", 1, "stopped"), desk.events("r", 2, "started")
    assert (started["step"], started["samples_seen"]) == (stopped["step"], stopped["samples_seen"])
    assert decided(desk, "r").count("intent") == 1

    eventually(lambda: "attempt 2" in refused(desk, "r"))  # whoever looks settles it, once the first is over for Slurm
    run = desk.status("r")
    assert (run["state"], run["attempts"], run["job"]["scheduler_id"]) == ("running", 2, standby["scheduler_id"])
    assert "from attempts/1/steps/step_" in desk.clipctl("show", "r").out
    assert "promote" in decided(desk, "r")
    watch(desk)
    assert desk.status("r")["standby"]["attempt"] == 3
    assert desk.clipctl("cancel", "r", "--force").code == 0
    eventually(lambda: not desk.jobs_of("r"))


def test_after_a_divergence_it_leaves_and_policy_speaks_first(desk: SlurmDesk) -> None:
    desk.launched(
        "r", STANDBY, "train.precision=amp_fp16", "train.epochs=12",
        "train.faults=[{kind: overflow, at_epoch: 10, at_step: 3}]",
    )  # fmt: skip
    standby = standing_by(desk, "r")
    assert left(desk, "r", standby["nonce"]) == 87
    assert "attempt 1 has diverged: policy speaks first" in script_log(desk, "r", standby["nonce"])
    assert not (desk.folder("r") / "attempts" / "2" / "claim").exists()
    eventually(lambda: "resubmit" in watch(desk))
    run = desk.wait("r", lambda run: run["state"] == "completed")
    assert (run["attempts"], run["precision"]) == (3, "amp_bf16")


def test_cancel_removes_it_before_the_job_and_nothing_comes_after(desk: SlurmDesk) -> None:
    first = desk.launched("r", LONG, STANDBY)
    standby = standing_by(desk, "r")
    assert len(desk.jobs_of("r")) == 2
    assert desk.clipctl("cancel", "r").code == 0
    eventually(lambda: not desk.jobs_of("r"))
    watch(desk)
    run = desk.status("r")
    assert (run["state"], run["attempts"], run["standby"]) == ("cancelled", 1, None)
    kinds = decided(desk, "r")
    assert kinds.index("cancel") < kinds.index("withdraw")
    log = desk.cluster.plan.log("slurmctld").read_text()
    told = [log.rindex(f"REQUEST_KILL_JOB JobId={job} ") for job in (standby["scheduler_id"], first)]
    assert told == sorted(told)
    assert not (desk.folder("r") / "jobs" / standby["nonce"] / "exit.json").exists(), "it never started"


def test_a_hold_removes_it_even_where_the_scheduler_cannot_be_told(desk: SlurmDesk, tmp_path: Path) -> None:
    """Its job goes on; the one that stood by comes to its turn, and reads that it is not wanted."""
    first = desk.launched("r", LONG, STANDBY)
    standby = standing_by(desk, "r")
    (tmp_path / "scancel").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    (tmp_path / "scancel").chmod(0o755)
    said = desk.clipctl("hold", "r", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert said.code == 0, said.err
    assert standby["scheduler_id"] in desk.jobs_of("r")
    desk.cluster.run("scancel", "--batch", "--signal=USR1", first)
    assert left(desk, "r", standby["nonce"]) == 87
    assert "was withdrawn: it must not start" in script_log(desk, "r", standby["nonce"])
    eventually(lambda: watch(desk) is not None and desk.status("r")["standby"] is None)
    assert (desk.status("r")["state"], desk.status("r")["attempts"]) == ("held", 1)


def test_one_that_hangs_before_its_claim_makes_way(desk: SlurmDesk) -> None:
    """Its script stands still; it has waited in the queue, and Slurm says that it runs."""
    first = desk.launched("r", LONG, STANDBY)
    desk.trains("r")
    desk.cluster.profile(desk.root, setup=["kill -STOP $$"])
    standby = standing_by(desk, "r")
    desk.cluster.profile(desk.root, limits={"claim_wait": 0, "patience": {"starting": 2}})
    desk.cluster.run("scancel", "--batch", "--signal=USR1", first)
    eventually(lambda: desk.events("r", 1, "stopped"))
    eventually(lambda: watch(desk) is not None and "withdraw" in decided(desk, "r"))
    desk.cluster.profile(desk.root)
    assert "without a claim; patience 2 s" in " ".join(desk.clipctl("history", "r").out.split())
    eventually(lambda: "resubmit" in watch(desk))
    eventually(lambda: desk.events("r", 3, "started"))
    (stopped,), (started,) = desk.events("r", 1, "stopped"), desk.events("r", 3, "started")
    assert started["step"] == stopped["step"]
    assert standby["scheduler_id"] not in desk.jobs_of("r")
    assert not (desk.folder("r") / "attempts" / "2" / "claim").exists()
    assert desk.clipctl("cancel", "r", "--force").code == 0
    eventually(lambda: not desk.jobs_of("r"))


def test_what_has_completed_needs_no_next_job(desk: SlurmDesk) -> None:
    desk.launched("r", STANDBY, "train.epochs=8")
    standby = standing_by(desk, "r")
    assert left(desk, "r", standby["nonce"]) == 87  # before anybody looks, who would scancel it
    eventually(lambda: watch(desk) is not None and desk.status("r")["standby"] is None)
    assert (desk.status("r")["state"], desk.status("r")["attempts"]) == ("completed", 1)
