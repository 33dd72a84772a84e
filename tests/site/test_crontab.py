"""One block of ours in a user's table, every other byte as it was; and Slurm's own table where there is no cron."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from clipctl.errors import InvalidSpec, Unavailable
from clipctl.ops import cron
from clipctl.ops.clock import SystemClock
from clipctl.site.crontab import has_block, with_block, without_block
from clipctl.store import ticks

HOME, OTHER = Path("/home/ada/.clipctl"), Path("/home/ada/.clipctl-2")
TABLES = ["", "0 3 * * * backup\n", "# one\n\n\n# two", "\r\nMAILTO=\n"]


@pytest.mark.parametrize("table", TABLES)
def test_what_was_there_is_there_again(table: str) -> None:
    whole = table if table.endswith("\n") or not table else f"{table}\n"  # cron takes no last line without an end
    with_ours = with_block(table, HOME, ["*/5 * * * * tick"])
    assert with_ours.startswith(whole) and has_block(with_ours, HOME)
    assert without_block(with_ours, HOME) == whole


def test_a_block_is_replaced_where_it_stands_and_those_of_other_stores_stay() -> None:
    table = with_block(with_block("# first\n", HOME, ["* * * * * a"]), OTHER, ["* * * * * b"]) + "# last\n"
    changed = with_block(table, HOME, ["*/2 * * * * a"])
    assert changed == table.replace("* * * * * a", "*/2 * * * * a", 1)
    assert without_block(without_block(changed, OTHER), HOME) == "# first\n# last\n"
    assert not has_block(without_block(changed, OTHER), OTHER)


def installed(home: Path, *options: str) -> None:
    cron.install(home, every=5, program=cron.SCRONTAB, options=options, environ=os.environ, clock=SystemClock())


def test_without_a_scrontab_nothing_is_installed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = shutil.which("env")
    assert env is not None
    (tmp_path / "env").symlink_to(env)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="scrontab: No such file or directory") as said:
        installed(home)
    assert "--loop 60" in said.value.hint
    assert ticks.installed(home) is None


@pytest.mark.parametrize("option", ["account=x", "--wrap=a b", "--account=x\n#SCRON --uid=0", "-A x"])
def test_what_is_no_option_of_sbatch_does_not_reach_the_table(home: Path, option: str) -> None:
    with pytest.raises(InvalidSpec, match="is no option of sbatch"):
        installed(home, option)


def test_slurms_table_has_its_options_before_the_line_and_no_escapes() -> None:
    script = Path("/home/ada/100 %/tick.sh")
    *options, line = cron.lines(script, 1, cron.SCRONTAB, ["--account=me"])
    assert options[0] == "#SCRON --job-name=clipctl-watchdog" and options[-1] == "#SCRON --account=me"
    assert line == "* * * * * /bin/sh '/home/ada/100 %/tick.sh'"
    assert cron.lines(script, 7, cron.CRONTAB, []) == [r"*/7 * * * * /bin/sh '/home/ada/100 \%/tick.sh'"]
