"""What the whole suite shares: a home for each test, counts that `make soak` raises, nothing left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported anywhere: two workers with two threads each would spin against each other on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell has its background jobs, and with them every process that is started here, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

FOREIGN = ("SLURM_", "SBATCH_", "CLIPCTL_", "SUBMITIT_", "MASTER_", "TORCHELASTIC_")
FOREIGN_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SOAKING = os.environ.get("CLIPCTL_SOAK") == "1"

settings.register_profile("usual", deadline=None, derandomize=True, database=None)
settings.register_profile("soak", deadline=None, database=None, max_examples=5000)
settings.load_profile("soak" if SOAKING else "usual")


@pytest.fixture(scope="session")
def soak() -> Callable[[int, int], int]:
    """`soak(short, long)`: how often, in an ordinary run and in `make soak` (CLIPCTL_SOAK=1)."""
    return lambda short, long: long if SOAKING else short


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """$CLIPCTL_HOME of this test alone, and no process that lives on in it.

    The suite may itself run inside a job: what that job's environment says must not reach the ranks started here.
    """
    for name in [name for name in os.environ if name.startswith(FOREIGN) or name in FOREIGN_NAMES]:
        monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("CLIPCTL_HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield folder
    assert not _left_behind(folder), "processes of this test live on"


def _left_behind(home: Path, patience: float = 10.0) -> list[str]:
    """Command lines of processes whose $CLIPCTL_HOME is this test's, once those that were about to end have ended."""
    end = time.monotonic() + patience
    while (left := _processes_of(home)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _processes_of(home: Path) -> list[str]:
    mark = f"CLIPCTL_HOME={home}\0".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = mark in (process / "environ").read_bytes() and process.name != str(os.getpid())
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended meanwhile, or another user's
            continue
        if ours and "multiprocessing" not in command:  # Python's own resource tracker lives as long as pytest
            found.append(f"{process.name}: {command}")
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says by name what was not run."""
    left_out = [f"{report.nodeid}: {report.longrepr[2]}" for report in terminalreporter.stats.get("skipped", [])]
    terminalreporter.section("could not run here")
    for line in left_out or ["nothing: every test ran"]:
        terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI a test that was left out is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
