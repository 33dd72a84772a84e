"""Python's garbage collector stops no rank by itself, and runs as ever where nobody waits."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.attempts import prepare, rehearsal_spec, run_here
from tests.trainer.shard_files import noisy, spec, write_shards
from trainer import garbage
from trainer.contract import ExitCode, Stream
from trainer.data import Loader


@pytest.fixture(autouse=True)
def put_off() -> Iterator[None]:
    garbage.put_off()
    yield
    garbage.resume()


def test_it_runs_after_the_same_steps_on_each_rank_and_looks_at_nothing_that_was_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "EVERY", 4)
    looked: list[tuple[int, bool]] = []

    def note(phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            looked.append((info["generation"], gc.get_freeze_count() > 10_000))

    started = prepare(tmp_path / "run", 1, rehearsal_spec())
    gc.callbacks.append(note)
    try:
        assert run_here(started) == ExitCode.COMPLETED
    finally:
        gc.callbacks.remove(note)
    assert max(event.step for event in started.events("progress")) == 15
    assert looked == [(2, True)] * 3, "after steps 4, 8 and 12"
    assert gc.get_freeze_count() == 0


def test_workers_that_load_data_collect_their_own(tmp_path: Path) -> None:
    train = spec(write_shards(tmp_path, shards=2, pairs=8), samples=8, batch_size=4)
    stream = Stream(batch_size=4, ranks=1, workers=1, origin=0)
    loader = Loader(train, 0, stream, noisy, lambda _: torch.tensor([[gc.isenabled()]]))
    try:
        assert all(bool(batch.texts.all()) for batch in loader.batches(1))
    finally:
        loader.close()
    assert not gc.isenabled()
