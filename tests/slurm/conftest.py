"""Tests on a real Slurm: small clusters that live as long as the test run, put in order after each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, missing_programs
from tests.slurm.jobs import Jobs

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker has all tests of this folder, one after another: they share clusters."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("slurm"))


def booted(*, accounting: bool) -> Iterator[Cluster]:
    if missing := missing_programs(accounting=accounting):
        reason = f"not installed: {', '.join(missing)}; apt install slurm-wlm munge slurmdbd mariadb-server"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="emulated-"))
    folder.chmod(0o755)  # other users' jobs, too
    try:
        with Cluster.up(folder, accounting=accounting) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Six idle nodes with four GPUs each; accounting is disabled."""
    yield from booted(accounting=False)


@pytest.fixture(scope="session")
def accounted() -> Iterator[Cluster]:
    """The same with slurmdbd behind it."""
    yield from booted(accounting=True)


@pytest.fixture(autouse=True)
def in_order(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands of the test reach its cluster; whatever it did there ends with it."""
    name = next((name for name in ("accounted", "cluster") if name in request.fixturenames), None)
    if name is None:
        yield
        return
    cluster: Cluster = request.getfixturevalue(name)
    for variable, value in cluster.environ.items():
        monkeypatch.setenv(variable, value)
    yield
    cluster.restore()


def jobs_of(cluster: Cluster, tmp_path: Path) -> Jobs:
    root = tmp_path / "it's a run"
    root.mkdir()
    return Jobs(cluster, root)


@pytest.fixture
def jobs(cluster: Cluster, in_order: None, tmp_path: Path) -> Jobs:
    return jobs_of(cluster, tmp_path)


@pytest.fixture
def accounted_jobs(accounted: Cluster, in_order: None, tmp_path: Path) -> Jobs:
    return jobs_of(accounted, tmp_path)
