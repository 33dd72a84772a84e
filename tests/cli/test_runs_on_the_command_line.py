"""Which run is meant: a name that is taken, the only one that can be resumed, and none guessed."""

from __future__ import annotations

from pathlib import Path

from clipctl.errors import ExitStatus
from clipctl.store import open_store
from tests.cli.conftest import Clipctl
from tests.ops.theatre import Stage, demo


def stopped_run(home: Path, name: str) -> None:
    with open_store(home) as store:
        run = Stage(store, demo().model_copy(update={"name": name}))
        run.launch()
        run.save(1)
        run.end(1)


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


def test_completion_offers_runs(process: Clipctl, home: Path):
    stopped_run(home, "tiny")
    said = process(_CLIPCTL_COMPLETE="complete_bash", COMP_WORDS="clipctl cancel t", COMP_CWORD="2")
    assert said.out.split() == ["tiny"]
