"""A run's folder on a disk that is full: nothing can be decided for it, and nothing is started, until there is room."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipctl.domain import Resubmit
from clipctl.ops import database
from clipctl.store import open_store
from tests.full import PAGE, fill, small_disk
from tests.ops.test_slices import leaves, ticked
from tests.ops.theatre import Stage, demo
from trainer.contract import EventKind, ExitCode


@pytest.mark.parametrize("more", [0, 2000])
def test_a_full_disk_below_a_run_keeps_it_as_it_is(tmp_path: Path, home: Path, more: int) -> None:
    """`more`: bytes of its last words, so that the disk is full at another of the lines that clipctl writes."""
    root = tmp_path / "root"
    with small_disk(root, 256 * PAGE), open_store(home) as store:
        run = Stage(store, demo().model_copy(update={"root": root}))
        run.launch()
        run.event(EventKind.STARTED, epoch=1, into=0)
        run.save(1)
        run.event(EventKind.CRASHED, epoch=2, into=3, error="x" * more, rank=0)
        leaves(run, ExitCode.CRASHED)
        filler = fill(root)
        for _ in range(3):
            report = ticked(run)
            (line,) = (line for line in report.lines if "not done" in line)
            assert "decisions.jsonl: " in line and "nothing was decided" in line and report.unseen
            run.time.sleep(400.0)
        assert len(run.scheduler.submitted) == 1
        filler.unlink()
        report = ticked(run)
        assert isinstance(report.outcomes[0].decision, Resubmit) and not report.unseen
        assert len(run.scheduler.submitted) == 2 and database.check(home).problems == ()
