"""`clipctl watchdog run` as cron and people call it: what it says, what it leaves with, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from clipctl.errors import ExitStatus
from clipctl.store import lease, ticks
from tests.e2e.conftest import Desk
from tests.local.desk import eventually
from trainer.contract import dumps, write_atomic

LIGHT = ("train.engine=rehearsal", "resources.ranks_per_node=2", "train.zeroshot=null", "train.data.workers=0")
OVERFLOW = ("train.precision=amp_fp16", "train.faults=[{kind: overflow, at_epoch: 2, at_step: 2}]")


def ill(desk: Desk, name: str) -> None:
    """A run whose float16 has overflowed, and whose job is gone."""
    assert desk.launch(name, *LIGHT, *OVERFLOW).code == 0
    desk.wait(name, lambda run: run["last_incident"] is not None and not run["job"]["live"])


def test_it_says_nothing_where_nothing_happens(desk: Desk) -> None:
    said = desk.clipctl("watchdog", "run")
    assert (said.code, said.out, said.err) == (0, "", "")
    assert desk.clipctl("status").err == ""


@pytest.mark.timeout(600)
def test_a_nan_is_cured_by_a_loop_that_ends_with_its_tick(desk: Desk) -> None:
    """Real float16, real ranks; the loop is all there is, and a signal lets it do its work to the end."""
    command = [sys.executable, "-m", "clipctl", "watchdog", "run", "--loop", "1"]
    loop = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert desk.launch("nan", *LIGHT, *OVERFLOW).code == 0
        run = desk.wait("nan", lambda run: run["state"] == "completed" and not run["job"]["live"])
        assert (run["attempts"], run["precision"]) == (2, "amp_bf16")
        eventually(lambda: "complete" in [entry["kind"] for entry in decisions(desk, "nan")])
        loop.send_signal(signal.SIGTERM)
        out, _ = loop.communicate(timeout=60)
    finally:
        loop.kill()
        loop.wait()
    assert loop.returncode == 0, out
    said = [line.split(" ", 2)[2] for line in out.splitlines()]
    assert [line.split(":")[:2] for line in said] == [["nan", " resubmit"], ["nan", " complete"]], out
    last = lease.newest(desk.home)
    assert last is not None and last.over
    standing = json.loads(desk.clipctl("watchdog", "status", "--json").out)
    assert (standing["owner"], standing["ticking"], standing["last"]["every"]) == (lease.host(), False, 1.0)


def decisions(desk: Desk, name: str) -> list[dict[str, object]]:
    path = desk.home / "runs" / name / "decisions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.timeout(600)
def test_of_many_ticks_at_once_one_acts_and_the_others_leave_in_peace(desk: Desk) -> None:
    ill(desk, "nan")
    command = [sys.executable, "-m", "clipctl", "watchdog", "run"]
    all_five = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(5)
    ]
    said = [each.communicate(timeout=200)[0] for each in all_five]
    assert [each.returncode for each in all_five] == [0] * 5, said
    assert sum(out.count("resubmit") for out in said) == 1, said
    assert len(list((desk.home / "runs" / "nan" / "attempts").iterdir())) == 2


def test_observing_prints_and_does_nothing(desk: Desk) -> None:
    ill(desk, "nan")
    said = desk.clipctl("watchdog", "run", "--observe")
    assert said.code == 0 and "nan: resubmit: diverged at epoch 2, step 2" in said.out
    as_json = json.loads(desk.clipctl("watchdog", "run", "--observe", "--json").out)
    assert [(run["run"], run["decision"]) for run in as_json["runs"]] == [("nan", "resubmit")]
    assert len(list((desk.home / "runs" / "nan" / "attempts").iterdir())) == 1
    assert not (desk.home / "watchdog").exists()


def test_what_went_wrong_is_said_and_told_by_the_code(desk: Desk) -> None:
    assert desk.launch("r", *LIGHT, "train.faults=[{kind: crash, at_epoch: 2, at_step: 1}]").code == 0
    desk.wait("r", lambda run: not run["job"]["live"])
    events = desk.home / "runs" / "r" / "attempts" / "1" / "events.jsonl"
    events.rename(events.with_suffix(".aside"))
    events.symlink_to(events)
    unread = desk.clipctl("watchdog", "run")
    assert unread.code == ExitStatus.UNAVAILABLE
    assert "r: not done: " in unread.out and "Too many levels of symbolic links" in unread.out
    assert desk.clipctl("hold", "r").code == 0
    events.unlink()
    events.with_suffix(".aside").rename(events)
    for _ in range(2):
        held = desk.clipctl("watchdog", "run")
        assert (held.code, held.out) == (ExitStatus.NEEDED, "")


def test_a_tick_that_does_not_move_is_told_of(desk: Desk) -> None:
    desk.clipctl("watchdog", "run")
    here = lease.here()
    stuck = lease.Term(number=9, holder=here, since=time.time(), beat_at=time.monotonic() - 25 * 60)
    write_atomic(ticks.folder_of(desk.home) / "term.9", dumps(stuck))
    said = desk.clipctl("watchdog", "run")
    assert said.code == ExitStatus.NEEDED and f"kill -9 {os.getpid()}" in said.out


def test_status_is_loud_when_no_tick_came_for_long_and_there_is_something_to_watch(desk: Desk) -> None:
    assert desk.launch("r", *LIGHT, "train.epochs=100000").code == 0
    desk.wait("r", lambda run: run["state"] == "running")
    assert desk.clipctl("status").err == "", "nobody ever asked for a watchdog"
    assert desk.clipctl("watchdog", "run").out == ""
    assert desk.clipctl("status").err == ""
    last = ticks.last_tick(desk.home)
    assert last is not None and last.runs == 1
    age(desk.home, 17 * 60)
    for command in (("status",), ("status", "r")):
        assert "NOBODY WATCHES: the watchdog has not looked for " in desk.clipctl(*command).err
    assert json.loads(desk.clipctl("status", "--json").out)["unwatched"] > 17 * 60
    assert "NOBODY WATCHES: no tick for " in desk.clipctl("watchdog", "status").out
    assert desk.clipctl("cancel", "r", "--force").code == 0
    desk.wait("r", lambda run: run["state"] == "cancelled")
    desk.clipctl("watchdog", "run")
    age(desk.home, 17 * 60)
    assert desk.clipctl("status").err == "", "nothing is left to watch"


def age(home: Path, seconds: float) -> None:
    last = ticks.last_tick(home)
    assert last is not None
    ticks.write_tick(home, replace(last, at=last.at - seconds))
