"""The suite's own promises, kept by tests/conftest.py: nothing is left behind, nothing is left out in silence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")


def suite_of(folder: Path, body: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a suite of one module with our conftest."""
    shutil.copy(CONFTEST, folder)
    (folder / "test_one.py").write_text(body)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}", str(folder)]
    command += options
    plain = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        command, cwd=folder, env=plain | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.parametrize(("environment", "code"), [({}, 0), ({"CI": "true"}, 1)])
def test_a_skipped_test_is_named_and_fails_under_ci(tmp_path: Path, environment: dict[str, str], code: int) -> None:
    run = suite_of(tmp_path, "import pytest\ndef test_slurm(): pytest.skip('no slurmctld')", **environment)
    assert "test_one.py::test_slurm: Skipped: no slurmctld" in run.stdout
    assert run.returncode == code


def test_a_process_that_outlives_its_test_fails_it(tmp_path: Path) -> None:
    body = "import subprocess\ndef test_job(): subprocess.Popen(['sleep', '{}'], start_new_session=True)"
    (clean, left) = (suite_of(tmp_path, body.format(seconds)) for seconds in (0, 12))
    assert clean.returncode == 0, clean.stdout
    assert left.returncode == 1 and "sleep 12" in left.stdout


def test_tests_of_a_group_share_a_worker(tmp_path: Path) -> None:
    """A pytest that is newer than its xdist spreads them without a word."""
    body = """
import os, pathlib, pytest
@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(8))
def test_worker(number): pathlib.Path(f"worker{number}").write_text(os.environ["PYTEST_XDIST_WORKER"])
"""
    run = suite_of(tmp_path, body, "-n", "2", "--dist", "loadgroup")
    assert run.returncode == 0, run.stdout
    assert len({file.read_text() for file in tmp_path.glob("worker*")}) == 1


def test_each_test_has_a_home_of_its_own(home: Path, tmp_path: Path) -> None:
    assert os.environ["CLIPCTL_HOME"] == str(home) and home.is_relative_to(tmp_path)
    assert not home.exists()
