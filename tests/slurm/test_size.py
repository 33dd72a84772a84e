"""The card's job at its full width: 384 real ranks on 96 nodes, by the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.rehearse import NODES, Rehearsal
from tests.slurm.conftest import booted


@pytest.fixture
def large(installed: None) -> Iterator[Cluster]:
    yield from booted(nodes=NODES)


@pytest.mark.timeout(900)  # each rank is a Python that starts: a minute where nothing else runs
def test_384_ranks_are_where_slurm_put_them_and_their_script_is_one_text(large: Cluster, tmp_path: Path) -> None:
    rehearsal = Rehearsal(large, tmp_path, ("train.epochs=2", "train.optim.warmup=2"))
    rehearsal.launch()
    assert rehearsal.differences() == []
