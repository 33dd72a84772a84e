"""The command line in this process, and in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from clipctl.cli import main


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Clipctl = Callable[..., Said]


@pytest.fixture
def clipctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Clipctl:
    """`clipctl("launch", "demo", "--dry-run")`, here."""

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["clipctl", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return Said(int(left.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def process() -> Clipctl:
    """The same in a process of its own, without a terminal."""

    def call(*arguments: str, **environment: str) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "clipctl", *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | environment,
            timeout=120,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return call
