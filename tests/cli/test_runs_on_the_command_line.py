"""Which run is meant: a name that is taken, the only one that can be resumed, and none guessed."""

from __future__ import annotations

import json
from pathlib import Path

from clipctl.errors import ExitStatus
from clipctl.store import open_store
from tests.cli.conftest import Clipctl
from tests.ops.theatre import Stage, demo
from trainer.contract import EventKind


def stopped_run(home: Path, name: str) -> None:
    with open_store(home) as store:
        run = Stage(store, demo().model_copy(update={"name": name}))
        run.launch()
        run.save(1)
        run.end(1)


def test_what_an_attempt_met_on_its_way_does_not_hide_that_it_completed(clipctl: Clipctl, home: Path):
    with open_store(home) as store:
        run = Stage(store, demo().model_copy(update={"name": "tiny"}))
        run.launch()
        run.event(EventKind.PROGRESS, epoch=2, into=3, loss=2.0, unsaved="epoch_1.pt was not written: no space left")
        run.look()
        assert "; 1,248 samples; storage at epoch 2, step 3 (" in clipctl("show", "tiny").out
        run.event(EventKind.COMPLETED, epoch=3, into=10)
        run.look()
    attempt, _, met, *_ = clipctl("show", "tiny").out.partition("attempt 1: ")[2].splitlines()
    assert attempt.endswith("; 2,880 samples; completed")
    assert "── storage at epoch 2, step 3 (epoch_1.pt was not written: no space left; a second refusal ends it)" in met


def test_a_name_that_is_taken_is_refused_with_a_free_one(clipctl: Clipctl, home: Path):
    stopped_run(home, "tiny")
    stopped_run(home, "tiny-2")
    said = clipctl("launch", "demo", "--name", "tiny", "--dry-run")
    assert (said.code, said.out) == (ExitStatus.REFUSED, "")
    assert said.err.splitlines() == [
        "error: a run named 'tiny' exists",
        "hint: clipctl resume tiny, or launch with --name tiny-3",
    ]


def test_the_only_run_that_can_be_resumed_need_not_be_named(clipctl: Clipctl, home: Path):
    stopped_run(home, "tiny")
    said = clipctl("resume", "--dry-run")
    assert said.code == ExitStatus.OK
    assert said.out.startswith("resume tiny: attempt 2, with epoch 2 of 3\n")
    stopped_run(home, "other")
    said = clipctl("resume", "--dry-run")
    assert said.code == ExitStatus.REFUSED
    assert "error: 2 runs can be resumed: say which" in said.err
    assert "error: could be tiny (stopped)" in said.err


def test_without_a_terminal_nothing_is_resumed_unasked(process: Clipctl, home: Path):
    stopped_run(home, "tiny")
    said = process("resume", "tiny")
    assert said.code == ExitStatus.REFUSED
    assert said.err.splitlines() == ["error: there is no terminal to ask on", "hint: add -y"]
    with open_store(home) as store:
        assert store.run("tiny").attempts == 1


def test_logs_are_told_to_programs_line_by_line(clipctl: Clipctl, home: Path):
    stopped_run(home, "tiny")
    (logs,) = (home / "runs" / "tiny" / "jobs").glob("*/logs")
    (logs / "rank_0.log").write_text('a "quote"\n\x1b[31mred\n')
    said = clipctl("logs", "tiny", "--json")
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["text"] for line in lines] == ['a "quote"', "red"]
    assert lines[0] == {"schema": 1, "attempt": 1, "log": "rank_0.log", "text": 'a "quote"'}


def test_an_endless_error_is_cut_where_a_person_reads_it(clipctl: Clipctl, home: Path):
    with open_store(home) as store:
        run = Stage(store, demo())
        run.launch()
        run.event(EventKind.CRASHED, epoch=1, into=3, error="ValueError: none of " + "x" * 3000, rank=0)
        run.end(1)
    said = clipctl("status").out
    assert "crashed at epoch 1, step 3 (ValueError: none of xxx" in said
    assert max(map(len, said.splitlines())) < 200
    assert "x" * 3000 in clipctl("status", "tiny", "--json").out


def test_an_incident_of_an_earlier_attempt_says_of_which(clipctl: Clipctl, home: Path):
    with open_store(home) as store:
        run = Stage(store, demo())
        run.launch()
        run.save(1)
        run.end(1)
        assert "  incident    crashed (" in clipctl("status", "tiny").out
        run.resume()
        assert "  incident    attempt 1 crashed (" in clipctl("status", "tiny").out


def test_completion_offers_runs(process: Clipctl, home: Path):
    stopped_run(home, "tiny")
    said = process(_CLIPCTL_COMPLETE="complete_bash", COMP_WORDS="clipctl cancel t", COMP_CWORD="2")
    assert said.out.split() == ["tiny"]
