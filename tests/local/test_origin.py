"""A `trainer` that is not clipctl's is refused by whatever starts it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.local.desk import REPOSITORY
from trainer.contract import ExitCode
from trainer.origin import installed_folder


@pytest.mark.parametrize("module", ["trainer", "trainer.claim", "trainer.spawn"])
def test_a_copy_that_python_finds_first_is_refused(module: str, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "trainer", tmp_path / "trainer", ignore=shutil.ignore_patterns("__pycache__"))
    started = start(module, {"PYTHONPATH": str(tmp_path)})

    assert started.returncode == ExitCode.REFUSED
    assert started.stderr.startswith(f"error: the package `trainer` was found in {tmp_path}")
    assert started.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["trainer", "trainer.claim", "trainer.spawn"])
def test_clipctls_own_is_not(module: str) -> None:
    started = start(module, {})

    assert "usage: " in started.stderr  # it went on to its arguments
    assert "was found in" not in started.stderr


def test_an_editable_install_is_where_its_source_is() -> None:
    assert installed_folder() == REPOSITORY / "trainer"


def test_without_clipctl_there_is_no_trainer_to_trust(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    shutil.copytree(REPOSITORY / "trainer", tmp_path / "copy" / "trainer")
    python = str(tmp_path / "bare" / "bin" / "python")
    started = start("trainer.claim", {"PYTHONPATH": str(tmp_path / "copy")}, python)

    assert started.returncode == ExitCode.REFUSED
    assert "clipctl is not installed for this Python" in started.stderr


def test_an_ordinary_install_is_where_its_files_are(tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(REPOSITORY / "trainer", site / "trainer")
    record = site / "clipctl-0.1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: clipctl\nVersion: 0.1.0\n")
    started = start("trainer.claim", {"PYTHONPATH": str(site)})

    assert "usage: " in started.stderr and started.returncode == 2


def start(module: str, environ: dict[str, str], python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-P", "-m", module], env=environ, capture_output=True, text=True, timeout=60)
