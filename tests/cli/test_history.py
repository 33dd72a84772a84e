"""A person comes back after a week and reads what happened."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipctl.domain import JobState
from clipctl.errors import ExitStatus, Refused, Unavailable
from clipctl.ops import cancel, hold
from clipctl.ops.save_now import save_now
from clipctl.store import open_store
from tests.cli.conftest import Clipctl
from tests.ops.theatre import Stage, demo
from trainer.contract import EventKind, ExitCode, SaveNow, loads

NAN = {"loss": "nan", "grad_norm": "nan", "scale": 1.0, "ranks": [0, 1], "cause": "loss"}


@pytest.fixture(autouse=True)
def _greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def a_week(home: Path) -> None:
    with open_store(home) as store:
        run = Stage(store, demo("train.precision=amp_fp16"))
        run.launch()
        run.time.sleep(60)
        run.event(EventKind.STARTED, epoch=1, into=0, hosts=["jwb1", "jwb2"])
        run.save(1)
        run.event(EventKind.PROGRESS, epoch=2, into=1, loss=2.0)
        run.look()
        assert save_now("tiny", actor="bob", store=store, clock=run.time) == 1
        run.time.sleep(5)
        run.event(EventKind.CHECKPOINT, epoch=2, into=2, path="steps/step_12.pt", request=1)
        run.time.sleep(3600)
        run.event(EventKind.DIVERGED, epoch=2, into=5, **NAN)
        run.end(ExitCode.DIVERGED)
        run.time.sleep(60)
        hold.hold(
            "tiny",
            reason="let us look at it first",
            actor="ada",
            store=store,
            backend=run.scheduler,
            clock=run.time,
        )
        run.time.sleep(86_400)
        hold.release("tiny", actor="ada", store=store, clock=run.time)
        run.time.sleep(60)
        run.resume(epoch=2, patch={"train.precision": "fp32"})
        run.time.sleep(60)
        run.event(EventKind.STARTED, epoch=2, into=0, hosts=["jwb1"])
        run.time.sleep(30)
        numbers = {"before": {"loss": 2.0, "lr": 1e-3, "odd": "nan"}, "after": {"loss": 2.013, "lr": 1e-3, "odd": 1}}
        run.event(EventKind.CONTINUED, epoch=2, into=1, **numbers)
        run.time.sleep(30)
        cancel.cancel("tiny", actor="ada", store=store, backend=run.scheduler, clock=run.time)
        run.event(EventKind.STOPPED, epoch=2, into=4, signal=15, checkpoint="steps/step_14.pt")
        run.time.sleep(30)
        run.end(ExitCode.STOPPED)


# fmt: off
LOGBOOK = """\
tiny: cancelled
1970-01-12 13:46:40  1  launch    from the start; amp_fp16, 2 x 32 (ada)
1970-01-12 13:46:40  1  job       is 17
1970-01-12 13:47:40  1  started   with epoch 1, step 0, on 2 hosts
1970-01-12 13:47:40  1  save-now  request 1: a checkpoint at the next step (bob)
1970-01-12 13:47:45  1  saved     steps/step_12.pt, for request 1
1970-01-12 14:47:45  1  incident  diverged at epoch 2, step 5: loss nan
1970-01-12 14:47:45  1  ended     exit.json says code 86
1970-01-12 14:48:45     hold      let us look at it first (ada)
1970-01-13 14:48:45     release   released by a person (ada)
1970-01-13 14:49:45  2  resume    from attempts/1/checkpoints/epoch_1.pt; fp32,
                                  2 x 48; batch_size 32 -> 48; precision
                                  amp_fp16 -> fp32; asked for by a person (ada)
1970-01-13 14:49:45  2  job       is 17
1970-01-13 14:50:45  2  started   with epoch 2, step 10, on 1 host
1970-01-13 14:51:15  2  goes on   loss 2 -> 2.013, lr 0.001 -> 0.001
1970-01-13 14:51:45  2  stopped   at step 14, 1,344 samples; steps/step_14.pt
1970-01-13 14:51:45     cancel    asked for by a person (ada)
1970-01-13 14:52:15  2  incident  cancelled by user at epoch 2, step 4:
                                  cancelled
1970-01-13 14:52:15  2  ended     exit.json says code 85
next: clipctl resume tiny --force cancelled
"""
# fmt: on


def test_it_is_told_in_order_with_reasons_and_names(clipctl: Clipctl, home: Path, monkeypatch: pytest.MonkeyPatch):
    a_week(home)
    monkeypatch.setenv("COLUMNS", "80")
    said = clipctl("history", "tiny")
    assert said.code == ExitStatus.OK
    assert said.out == LOGBOOK
    assert max(map(len, said.out.splitlines())) <= 80


def test_programs_and_reports_get_the_same(clipctl: Clipctl, home: Path):
    a_week(home)
    view = json.loads(clipctl("history", "tiny", "--json").out)
    assert (view["schema"], view["state"]) == (1, "cancelled")
    held = next(line for line in view["lines"] if line["what"] == "hold")
    assert held == {
        "time": 1_003_725.0,
        "attempt": None,
        "what": "hold",
        "text": "let us look at it first",
        "actor": "ada",
    }
    table = clipctl("history", "tiny", "--markdown").out.splitlines()
    assert table[0] == "# tiny: cancelled"
    assert "| 1970-01-12 14:48:45 |  | hold | let us look at it first | ada |" in table
    assert sum(line.startswith("| 19") for line in table) == len(view["lines"])
    assert clipctl("history", "tiny", "--markdown", "--json").code == ExitStatus.REFUSED
    assert clipctl("history", "none").code == ExitStatus.NOT_FOUND


def test_what_nobody_has_stored_yet_is_told_too(clipctl: Clipctl, home: Path):
    with open_store(home) as store:
        run = Stage(store, demo())
        run.launch()
        run.event(EventKind.STARTED, epoch=1, into=0, hosts=["jwb1"])
        run.event(EventKind.DIVERGED, epoch=2, into=5, **NAN)
    said = clipctl("history", "tiny").out
    assert "  1  started   with epoch 1, step 0, on 1 host\n" in said
    assert "  1  incident  diverged: loss nan\n" in said


def test_a_checkpoint_is_asked_of_a_job_that_trains_and_of_no_other(home: Path):
    with open_store(home) as store:
        run = Stage(store, demo())
        begun = run.launch()
        run.scheduler.jobs[begun.identity.nonce] = JobState.PENDING
        run.look()
        with pytest.raises(Refused, match="is queued: no job of it can save now") as refusal:
            save_now("tiny", actor="ada", store=store, clock=run.time)
        assert refusal.value.hint == "clipctl status tiny"
        run.scheduler.jobs[begun.identity.nonce] = JobState.RUNNING
        run.look()
        assert [save_now("tiny", actor="ada", store=store, clock=run.time) for _ in range(2)] == [1, 2]
        asked = loads(SaveNow, run.folder.attempt(1).save_now.read_bytes())
        assert (asked.number, asked.actor) == (2, "ada")
        run.folder.attempt(1).save_now.unlink()
        run.folder.attempt(1).save_now.mkdir()
        with pytest.raises(Unavailable, match="the job does not hear of it"):
            save_now("tiny", actor="ada", store=store, clock=run.time)
        run.end(ExitCode.CRASHED)
        with pytest.raises(Refused, match="is stopped"):
            save_now("tiny", actor="ada", store=store, clock=run.time)


def test_open_clip_train_is_not_asked_for_a_checkpoint_that_it_cannot_write(home: Path):
    with open_store(home) as store:
        run = Stage(store, demo("train.engine=open_clip", "train.zeroshot=null"))
        begun = run.launch()
        run.scheduler.jobs[begun.identity.nonce] = JobState.RUNNING
        run.look()
        with pytest.raises(Refused, match="open_clip_train saves at the end of an epoch, not when it is asked"):
            save_now("tiny", actor="ada", store=store, clock=run.time)
        assert not run.folder.attempt(1).save_now.exists()
