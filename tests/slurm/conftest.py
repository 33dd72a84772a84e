"""Tests on a real Slurm: small clusters that live as long as the test run, put in order after each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, missing_programs
from tests.slurm.desk import SlurmDesk
from tests.slurm.jobs import Jobs
from tests.story.watch import Watch, watching

HERE = Path(__file__).parent
CLUSTERS = ("accounted", "cluster")


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of this folder that share clusters come one after another, in one worker; other groups go beside."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group(group_of(item.path.stem)))


def group_of(module: str) -> str:
    """About half of the time each, and the long stories."""
    if module == "test_story":
        return "stories"
    return "watchdog" if module.startswith("test_watchdog") else "slurm"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed brings along what the controller said last."""
    report = yield
    found = item.funcargs if report.failed and isinstance(item, pytest.Function) else {}
    for name, cluster in found.items():
        if isinstance(cluster, Cluster):
            report.sections.append((f"slurmctld of {name}", cluster.said("slurmctld")))
    return report


@pytest.fixture(scope="session")
def installed() -> None:
    """Under CI a test that Slurm is missing for has failed."""
    if missing := missing_programs(accounting=True):
        leave = pytest.fail if os.environ.get("CI") else pytest.skip
        leave(f"not installed: {', '.join(missing)}; apt install slurm-wlm munge slurmdbd mariadb-server")


def booted(*, nodes: int = 6, accounting: bool = False) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="emulated-"))
    folder.chmod(0o755)  # other users' jobs, too
    try:
        with Cluster.up(folder, nodes=nodes, accounting=accounting) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(installed: None) -> Iterator[Cluster]:
    """Six idle nodes with four GPUs each; accounting is disabled."""
    yield from booted()


@pytest.fixture(scope="session")
def accounted(installed: None) -> Iterator[Cluster]:
    """The same with slurmdbd behind it."""
    yield from booted(accounting=True)


@pytest.fixture(autouse=True)
def in_order(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands of the test reach its cluster, the accounted one where it has both; what it did there ends with it."""
    clusters: list[Cluster] = [request.getfixturevalue(name) for name in CLUSTERS if name in request.fixturenames]
    for cluster in clusters[:1]:
        for variable, value in cluster.environ.items():
            monkeypatch.setenv(variable, value)
    yield
    for cluster in clusters:
        cluster.restore()


@pytest.fixture
def desk(cluster: Cluster, home: Path, tmp_path: Path) -> SlurmDesk:
    return seated(cluster, home, tmp_path)


@pytest.fixture
def accounted_desk(accounted: Cluster, home: Path, tmp_path: Path) -> SlurmDesk:
    return seated(accounted, home, tmp_path)


def seated(cluster: Cluster, home: Path, tmp_path: Path) -> SlurmDesk:
    root = tmp_path / "root"
    root.mkdir()
    cluster.profile(root)
    return SlurmDesk(cluster, home, root)


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


@pytest.fixture
def watch(desk: SlurmDesk) -> Iterator[Watch]:
    """A desk at which the watchdog acts, tick by tick; the invariants are asked after each."""
    with watching(desk) as watch:
        yield watch


@pytest.fixture
def accounted_watch(accounted_desk: SlurmDesk) -> Iterator[Watch]:
    with watching(accounted_desk) as watch:
        yield watch
