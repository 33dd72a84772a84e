"""The emulated cluster, one for all tests here, and as new for each of them. They run one after another on one worker.

Where Slurm is not installed these tests say so and how to get it; under CI that is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, Missing
from tests.slurm.desk import SlurmDesk

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("slurm"))


def _standing(tmp_path_factory: pytest.TempPathFactory, *, accounting: bool) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("accounted" if accounting else "cluster") / "c"
    folder.mkdir()
    try:
        cluster = Cluster.up(folder, accounting=accounting, kill_wait=4, grace=15, owner=os.getpid())
    except Missing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with cluster:
        yield cluster


@pytest.fixture(scope="session")
def standing_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    yield from _standing(tmp_path_factory, accounting=False)


@pytest.fixture(scope="session")
def standing_accounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    yield from _standing(tmp_path_factory, accounting=True)


def _as_new(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name, value in cluster.environ.items():
        monkeypatch.setenv(name, value)
    yield cluster
    cluster.clear()


@pytest.fixture
def cluster(standing_cluster: Cluster, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Six nodes of four GPUs, without accounting; all idle."""
    yield from _as_new(standing_cluster, monkeypatch)


@pytest.fixture
def accounted(standing_accounted: Cluster, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The same with slurmdbd and its database."""
    yield from _as_new(standing_accounted, monkeypatch)


@pytest.fixture
def desk(cluster: Cluster, home: Path, tmp_path: Path) -> SlurmDesk:
    return _desk(cluster, home, tmp_path)


@pytest.fixture
def accounted_desk(accounted: Cluster, home: Path, tmp_path: Path) -> SlurmDesk:
    return _desk(accounted, home, tmp_path)


def _desk(cluster: Cluster, home: Path, tmp_path: Path) -> SlurmDesk:
    root = tmp_path / "root"
    root.mkdir()
    cluster.profile(root)
    return SlurmDesk(cluster, home, root)
