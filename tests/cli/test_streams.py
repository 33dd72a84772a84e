"""Where the command line speaks to: pipes, full disks, nowhere, and terminals that only know ASCII."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clipctl.errors import ExitStatus
from tests.cli.conftest import Clipctl
from tests.cli.test_runs_on_the_command_line import stopped_run


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """`clipctl` in the line is the command."""
    command = line.replace("clipctl", f"{sys.executable} -m clipctl")
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)


def test_a_reader_that_has_enough_gets_no_traceback():
    assert shell("clipctl presets show l14-laion2b | true").stderr == ""


@pytest.mark.parametrize("command", ["presets", "render demo", "presets show demo --json"])
def test_a_full_disk_is_said_in_one_line(command: str):
    done = shell(f"clipctl {command} > /dev/full")
    assert done.returncode == ExitStatus.UNAVAILABLE
    assert done.stderr.splitlines() == [
        "error: the output cannot be written: No space left on device",
        "hint: df -h",
    ]


def test_closed_streams_are_no_error(home: Path):
    stopped_run(home, "tiny")
    assert shell("clipctl status >&-").stderr == ""
    assert shell("clipctl status ghost 2>&-").returncode == ExitStatus.NOT_FOUND
    assert "there is no terminal to ask on" in shell("clipctl resume tiny <&-").stderr


def test_a_terminal_that_only_knows_ascii_gets_a_tree_in_ascii(process: Clipctl, home: Path):
    stopped_run(home, "tiny")
    said = process("show", "tiny", PYTHONIOENCODING="ascii")
    assert (said.code, said.err) == (ExitStatus.OK, "")
    assert "`-- attempt 1: from the start" in said.out
    assert "?-- " not in said.out


@pytest.mark.parametrize("group", [(), ("data",)])
def test_a_group_without_a_command_shows_its_commands(clipctl: Clipctl, group: tuple[str, ...]):
    said = clipctl(*group)
    assert (said.code, said.out) == (ExitStatus.USAGE, "")
    assert said.err.startswith(f"Usage: {' '.join(('clipctl', *group))} ")
    assert "\nCommands:\n" in said.err


def test_a_wrong_command_line_is_hinted_at_the_commands_own_help(clipctl: Clipctl):
    assert "hint: clipctl data digits --help" in clipctl("data", "digits", "a", "b").err
    assert "hint: clipctl launch --help" in clipctl("launch").err
