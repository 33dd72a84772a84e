"""Two login nodes and one home: one watches, the other stands by, and no run is ever submitted twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from clipctl.errors import ExitStatus
from clipctl.store import lease
from tests.e2e.conftest import Desk
from tests.watchdog.test_run import decisions, ill

Soak = Callable[[int, int], int]
RUN = (sys.executable, "-m", "clipctl", "watchdog", "run")
ELSEWHERE = ("unshare", "--uts", "sh", "-c", 'hostname login2 && exec "$@"', "sh")


@pytest.fixture(autouse=True)
def another_host() -> None:
    """A host name of its own is all that it takes to be one."""
    allowed = shutil.which("unshare") and subprocess.run([*ELSEWHERE, "true"], capture_output=True).returncode == 0
    if not allowed:
        leave = pytest.fail if os.environ.get("CI") else pytest.skip
        leave("only root may have a host name of its own")


def elsewhere(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ELSEWHERE, *RUN, *options], capture_output=True, text=True, timeout=200)


def test_a_second_login_node_stands_by_until_it_is_told_to_take_over(desk: Desk) -> None:
    desk.clipctl("watchdog", "run")
    ill(desk, "nan")
    second = elsewhere()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    said = elsewhere("--verbose").stdout
    assert f"{lease.host()} is the watchdog" in said and "--take-over" in said
    assert not (desk.home / "runs" / "nan" / "attempts" / "2").exists()

    taken = elsewhere("--take-over")
    assert (taken.returncode, "nan: resubmit" in taken.stdout) == (0, True), taken
    assert json.loads(desk.clipctl("watchdog", "status", "--json").out)["owner"] == "login2"
    first = desk.clipctl("watchdog", "run", "--verbose")
    assert first.code == ExitStatus.OK and "login2 is the watchdog" in first.out


@pytest.mark.timeout(1200)
def test_two_watchdogs_that_both_think_it_is_their_turn_never_submit_twice(desk: Desk, soak: Soak) -> None:
    """Each takes over from the other whenever it can, and is killed at any moment, too."""
    draw = random.Random(5)
    names = [f"r{number}" for number in range(soak(2, 20))]
    for name in names:
        ill(desk, name)
    end = time.monotonic() + 600
    while not all(desk.status(name)["state"] == "completed" for name in names):
        assert time.monotonic() < end, [desk.status(name) for name in names]
        _both(draw)
    for name in names:
        intents = [line for line in decisions(desk, name) if line["kind"] == "intent"]
        lost = [line for line in decisions(desk, name) if line["kind"] == "incident" and "never" in str(line)]
        assert len(intents) - len(lost) == 2, "the one that overflowed, and the one that completed"
        claims = list((desk.home / "runs" / name / "attempts").glob("*/claim"))
        assert len(claims) == 2


def _both(draw: random.Random) -> None:
    """One of each host at once; one of the two may be killed."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    pair = [subprocess.Popen([*host, *RUN, "--take-over"], **quiet) for host in ((), ELSEWHERE)]
    if draw.random() < 0.3:
        time.sleep(draw.uniform(0.5, 3.0))
        draw.choice(pair).kill()
    for each in pair:
        each.wait(timeout=200)
