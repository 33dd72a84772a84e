"""`clipctl adopt`: a run with its past, from a folder that is only read; or nothing, and why."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from clipctl.errors import ExitStatus
from clipctl.journal import LocalFiles, checkpoints
from clipctl.layout import RunFolder
from tests.adoption.experiment import RANKS, SAMPLES, STEPS, Experiment
from tests.cli.conftest import Clipctl, Said
from trainer.contract import Event, loads

LOCAL = ("--cluster", "local")


def adopted(clipctl: Clipctl, theirs: Experiment, *options: str) -> Said:
    said = clipctl("adopt", str(theirs.folder), *LOCAL, *options)
    assert said.code == 0, said.err
    return said


def events(home: Path, kind: str | None = None) -> list[Event]:
    path = RunFolder.of(home, "theirs").attempt(1).events
    found = [loads(Event, line) for line in path.read_text().splitlines()]
    return [event for event in found if kind in (None, event.kind)]


def status(clipctl: Clipctl) -> dict[str, Any]:
    [run] = json.loads(clipctl("status", "theirs", "--json").out)["runs"]
    return dict(run)


def snapshot(folder: Path) -> dict[str, tuple[bytes, float]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def killed(theirs: Experiment) -> None:
    """Two epochs of six, and a half of the third."""
    theirs.start()
    theirs.epochs(1, 2)
    theirs.evaluate(2, 0.123456, 0.5)
    theirs.step(3, 1, 2.4, first=True)
    theirs.step(3, 2, 2.3)


# --- what becomes of it -------------------------------------------------------------------------------


def test_a_run_that_was_killed_is_there_with_its_past_and_waits_for_a_person(
    theirs: Experiment, clipctl: Clipctl, home: Path
) -> None:
    killed(theirs)
    before = snapshot(theirs.folder)
    said = adopted(clipctl, theirs)
    assert snapshot(theirs.folder) == before
    assert "ended   lost: its log ends without a word" in said.out
    assert "theirs: taken over, stopped; its checkpoints are hard links" in said.out

    run = status(clipctl)
    assert (run["state"], run["next"]) == ("stopped", "clipctl resume theirs")
    assert (run["progress"]["epoch"], run["progress"]["step_in_epoch"], run["progress"]["loss"]) == (3, 2, 2.3)
    assert run["progress"]["samples_seen"] == 2 * SAMPLES + 2 * SAMPLES // STEPS
    assert run["last_checkpoint"]["path"] == "attempts/1/checkpoints/epoch_2.pt"
    told = [event.kind for event in events(home)]
    epoch = ["progress"] * STEPS
    assert told == [
        "started",
        "notice",
        *epoch,
        "checkpoint",
        *epoch,
        "evaluated",
        "checkpoint",
        "progress",
        "progress",
    ]
    [evaluated] = events(home, "evaluated")
    assert evaluated.facts == {"epochs_done": 2, "top1": 0.123456, "top5": 0.5}, "results.jsonl has more digits"
    told = [line["what"] for line in json.loads(clipctl("history", "theirs", "--json").out)["lines"]]
    assert told == ["launch", "started", "taken over", "incident"]
    assert "begun by open_clip_train (open_clip_train)" in " ".join(clipctl("history", "theirs").out.split())
    assert "Train Epoch: 2" in clipctl("logs", "theirs").out

    assert clipctl("watchdog", "run").out == "", "nothing is decided, nothing submitted"
    assert "clipctl resume theirs sets it going" in clipctl("policy", "explain", "theirs").out
    plan = clipctl("resume", "theirs", "--dry-run")
    assert (plan.code, plan.err) == (0, "")
    assert "from            attempts/1/checkpoints/epoch_2.pt (2 epochs done)" in plan.out


def test_steps_and_samples_are_those_of_its_own_geometry(theirs: Experiment, clipctl: Clipctl, home: Path) -> None:
    killed(theirs)
    adopted(clipctl, theirs)
    progress = events(home, "progress")
    assert [event.step for event in progress] == list(range(1, 2 * STEPS + 3))
    assert [event.samples_seen for event in progress] == [step * SAMPLES // STEPS for step in range(1, 2 * STEPS + 3)]
    assert progress[0].facts["seconds"] == 0.5 and progress[0].facts["steps_per_epoch"] == STEPS
    [first, second] = checkpoints(LocalFiles(), RunFolder.of(home, "theirs").attempt(1))
    assert (first.manifest.samples_seen, second.manifest.samples_seen) == (SAMPLES, 2 * SAMPLES)
    assert (first.manifest.loss, first.manifest.stream.ranks) == (2.5, RANKS)


def test_the_database_says_what_its_folder_says_and_can_be_made_of_it_again(
    theirs: Experiment, clipctl: Clipctl, home: Path
) -> None:
    killed(theirs)
    adopted(clipctl, theirs)
    before = status(clipctl)
    assert clipctl("db", "check").code == 0
    (home / "clipctl.db").unlink()
    (home / "folders.jsonl").unlink()
    assert clipctl("db", "rebuild", "--root", str(home)).code == 0, "as after a kill between the folder and its row"
    assert status(clipctl) == before
    assert clipctl("watchdog", "run").out == ""


def test_a_loss_that_was_not_finite_is_a_divergence_with_the_remedy_that_policy_knows(
    theirs: Experiment, clipctl: Clipctl, home: Path
) -> None:
    """open_clip_train trains on behind it, and saves weights that are nan."""
    theirs.start()
    theirs.epochs(1, 3)
    theirs.step(4, 1, 2.5, first=True)
    theirs.step(4, 2, math.nan)
    theirs.step(4, 3, math.nan)
    theirs.save(4, weight=math.nan)
    theirs.epochs(5, 5, loss=math.nan, save=False)
    said = adopted(clipctl, theirs, "--set", "recovery.rollback_epochs=1")
    assert "4 checkpoints" in said.out and "; weights are not finite in 1 of them" in said.out
    [final] = events(home, "diverged")
    assert (final.epoch, final.step, final.facts["step_in_epoch"]) == (4, 3 * STEPS + 2, 2)
    run = status(clipctl)
    assert (run["state"], run["last_incident"]["kind"], run["last_incident"]["form"]) == ("stopped", "diverged", "nan")
    assert run["next"] == "clipctl resume theirs --epoch 3 --precision amp_bf16"
    refused = clipctl("resume", "theirs", "--epoch", "5", "--dry-run")
    assert refused.code == ExitStatus.REFUSED and "not finite" in refused.err


def test_a_run_that_is_done_is_completed(theirs: Experiment, clipctl: Clipctl) -> None:
    theirs.set(epochs=2)
    theirs.start()
    theirs.epochs(1, 2)
    assert "taken over, completed" in adopted(clipctl, theirs).out
    assert status(clipctl)["state"] == "completed"
    assert clipctl("resume", "theirs", "--set", "train.epochs=3", "--dry-run").code == 0


def test_an_exception_in_its_log_is_a_crash(theirs: Experiment, clipctl: Clipctl, home: Path) -> None:
    theirs.start()
    theirs.epochs(1, 1)
    with open(theirs.folder / "out.log", "a") as log:
        log.write("Traceback (most recent call last):\n  File ...\ntorch.cuda.OutOfMemoryError: CUDA out of memory.\n")
    adopted(clipctl, theirs)
    [crashed] = events(home, "crashed")
    assert crashed.facts["error"] == "torch.cuda.OutOfMemoryError: CUDA out of memory."
    assert status(clipctl)["last_incident"]["kind"] == "out_of_memory"


def test_restarts_in_one_log_are_one_attempt_and_the_newest_counts(
    theirs: Experiment, clipctl: Clipctl, home: Path
) -> None:
    """It went nan, and a person resumed from before with half of the batch on four ranks; params.txt has the newest."""
    theirs.start()
    theirs.epochs(1, 2)
    theirs.epochs(3, 3, loss=math.nan, save=False)
    theirs.set(batch_size=4, world_size=4, precision="fp32")
    theirs.start("logs/theirs/checkpoints/epoch_2.pt", 2)
    theirs.epochs(3, 3, loss=2.2)
    adopted(clipctl, theirs, "--set", "resources.nodes=1", "--set", "resources.ranks_per_node=4")
    started = events(home, "started")
    assert [(event.epoch, event.facts["batch_size"], event.facts["ranks"]) for event in started] == [
        (1, 8, 2),
        (3, 4, 4),
    ]
    assert started[1].facts["parent"] == "logs/theirs/checkpoints/epoch_2.pt"
    assert events(home, "diverged") == []
    assert status(clipctl)["last_incident"]["kind"] == "lost"
    assert [event.step for event in events(home, "progress")][-1] == 3 * STEPS


def test_without_a_log_the_past_is_the_checkpoints(theirs: Experiment, clipctl: Clipctl, home: Path) -> None:
    theirs.save(1)
    theirs.save(2)
    said = adopted(clipctl, theirs)
    assert "has no out.log: its past is its checkpoints alone" in said.err
    assert [event.kind for event in events(home)] == ["started", "notice", "checkpoint", "checkpoint"]
    assert status(clipctl)["last_checkpoint"]["epochs_done"] == 2


def test_where_no_hard_link_can_be_made_it_is_said_why(
    theirs: Experiment, clipctl: Clipctl, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two file systems, as far as os.link can tell."""
    killed(theirs)

    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", link)
    said = adopted(clipctl, theirs)
    assert "symbolic links (Invalid cross-device link): the files must stay where they are" in said.out
    path = RunFolder.of(home, "theirs").attempt(1).checkpoints / "epoch_2.pt"
    assert path.is_symlink() and path.resolve() == theirs.folder / "checkpoints/epoch_2.pt"
    assert "verified" in clipctl("checkpoints", "theirs", "--verify").out


def test_the_most_recent_file_counts_where_no_other_has_its_epoch(
    theirs: Experiment, clipctl: Clipctl, home: Path
) -> None:
    theirs.start()
    theirs.epochs(1, 3, save=False)
    theirs.save(3, name="epoch_latest.pt")
    adopted(clipctl, theirs)
    found = checkpoints(LocalFiles(), RunFolder.of(home, "theirs").attempt(1))
    assert [record.path for record in found] == ["attempts/1/checkpoints/epoch_3.pt"]
    theirs.save(3)
    adopted(clipctl, theirs, "--name", "both")
    assert len(checkpoints(LocalFiles(), RunFolder.of(home, "both").attempt(1))) == 1


def test_json_is_all_that_is_printed(theirs: Experiment, clipctl: Clipctl) -> None:
    killed(theirs)
    said = clipctl("adopt", str(theirs.folder), *LOCAL, "--json")
    view = json.loads(said.out)
    assert (view["run"], view["state"], view["schema"]) == ("theirs", "stopped", 1)
    assert view["checkpoints"] == ["attempts/1/checkpoints/epoch_1.pt", "attempts/1/checkpoints/epoch_2.pt"]


def test_a_dry_run_changes_nothing(theirs: Experiment, clipctl: Clipctl, home: Path) -> None:
    killed(theirs)
    assert clipctl("adopt", str(theirs.folder), *LOCAL, "--dry-run").code == 0
    assert not home.exists()
