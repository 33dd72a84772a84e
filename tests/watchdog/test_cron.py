"""Nobody is logged in: the real cron runs the watchdog, from the table that `clipctl watchdog install` has written."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Desk
from tests.watchdog import crond
from tests.watchdog.crond import Cron
from tests.watchdog.test_run import ill

CLIPCTL = (sys.executable, "-m", "clipctl")
FOREIGN = b"# Caf\xe9: not UTF-8, and none of our business\nMAILTO=nobody\n0 3 * * * /bin/true 100\\%\n"


@pytest.fixture
def cron(tmp_path: Path) -> Iterator[Cron]:
    if why := crond.missing():
        leave = pytest.fail if os.environ.get("CI") else pytest.skip
        leave(why)
    with crond.private(tmp_path) as cron:
        yield cron


@pytest.mark.timeout(600)
def test_a_nan_is_cured_with_nobody_logged_in(cron: Cron, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a path that shells and cron would both like to have a word about."""
    home = tmp_path / "it's 100% $HOME"
    monkeypatch.setenv("CLIPCTL_HOME", str(home))
    monkeypatch.setenv("SLURM_CONF", "/nowhere/slurm.conf")
    desk = Desk(home)
    assert cron.run("crontab", "-", stdin=FOREIGN).returncode == 0
    ill(desk, "nan")

    for _ in range(2):
        done = cron.run(*CLIPCTL, "watchdog", "install", "--every", "1")
        assert done.returncode == 0, done.stderr
        table = cron.table()
        assert table.startswith(FOREIGN) and table.count(b"tick.sh") == 1
    script = (home / "watchdog" / "tick.sh").read_text()
    assert "umask 077" in script and "export SLURM_CONF=/nowhere/slurm.conf" in script

    with cron.running():
        desk.wait("nan", lambda run: run["state"] == "completed" and not run["job"]["live"])
    log = home / "watchdog" / "watchdog.log"
    assert "nan: resubmit: diverged at epoch 2" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    view = json.loads(desk.clipctl("watchdog", "status", "--json").out)
    assert (view["installed"]["where"], view["installed"]["every"]) == ("crontab", 60.0)
    assert view["last"]["runs"] == 1

    assert cron.run(*CLIPCTL, "watchdog", "uninstall").returncode == 0
    assert cron.table() == FOREIGN
    assert not (home / "watchdog" / "tick.sh").exists()


def test_where_there_was_no_table_there_is_none_again(cron: Cron) -> None:
    assert cron.run(*CLIPCTL, "watchdog", "install").returncode == 0
    assert b"*/5 * * * * /bin/sh " in cron.table()
    assert cron.run(*CLIPCTL, "watchdog", "uninstall").returncode == 0
    again = cron.run("crontab", "-l")
    assert again.returncode == 1 and b"no crontab for" in again.stderr
    assert b"cron did not run the watchdog" in cron.run(*CLIPCTL, "watchdog", "uninstall").stdout
