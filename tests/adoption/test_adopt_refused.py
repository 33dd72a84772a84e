"""`clipctl adopt` says what cannot be, and why; then nothing is left, and nothing half of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from clipctl.errors import ExitStatus, Refused
from clipctl.journal import LocalFiles, checkpoints
from clipctl.layout import RunFolder
from clipctl.ops import adopt as operation
from clipctl.ops.clock import SystemClock
from clipctl.store import open_store
from clipctl.store.writer import Store
from tests.adoption.experiment import Experiment
from tests.adoption.test_adopt import LOCAL, adopted, killed, snapshot
from tests.cli.conftest import Clipctl


def refused(clipctl: Clipctl, home: Path, code: ExitStatus, *arguments: str) -> str:
    """The complaint; nothing is left, and nothing half of it."""
    said = clipctl("adopt", *arguments)
    assert said.code == code, said
    assert not list(home.glob("runs/*")) and not list(home.glob("runs/.*"))
    return said.err


def test_a_folder_of_something_else(theirs: Experiment, clipctl: Clipctl, home: Path) -> None:
    assert "has no params.txt: it is no experiment" in refused(
        clipctl, home, ExitStatus.NOT_FOUND, str(theirs.folder / "checkpoints"), *LOCAL
    )
    assert "is no folder" in refused(clipctl, home, ExitStatus.NOT_FOUND, str(theirs.folder / "gone"), *LOCAL)
    (theirs.folder / "params.txt").write_text("<html>")
    complaint = refused(clipctl, home, ExitStatus.INVALID, str(theirs.folder), *LOCAL)
    assert "params.txt: line 1 is not of the form `name: value`: <html>" in complaint


def test_no_checkpoint(theirs: Experiment, clipctl: Clipctl, home: Path) -> None:
    theirs.start()
    complaint = refused(clipctl, home, ExitStatus.NOT_FOUND, str(theirs.folder), *LOCAL)
    assert "checkpoints: no checkpoint that a run could go on from" in complaint


def test_a_cut_checkpoint_is_named_and_left_out_and_refused_where_it_is_all(
    theirs: Experiment, clipctl: Clipctl, home: Path
) -> None:
    path = theirs.save(1)
    os.truncate(path, 1000)
    complaint = refused(clipctl, home, ExitStatus.NOT_FOUND, str(theirs.folder), *LOCAL)
    assert f"{path}: not a whole torch checkpoint" in complaint
    theirs.save(2)
    theirs.save(3, name="epoch_4.pt")
    said = adopted(clipctl, theirs)
    assert f"{path}: not a whole torch checkpoint" in said.err
    assert "epoch_4.pt: of another epoch than its name says: it holds 3" in said.err
    found = checkpoints(LocalFiles(), RunFolder.of(home, "theirs").attempt(1))
    assert [record.manifest.file for record in found] == ["epoch_2.pt"]


def test_a_name_that_is_taken(theirs: Experiment, clipctl: Clipctl, home: Path) -> None:
    killed(theirs)
    adopted(clipctl, theirs)
    before = snapshot(home)
    said = clipctl("adopt", str(theirs.folder), *LOCAL)
    assert said.code == ExitStatus.REFUSED and "a run named 'theirs' exists" in said.err
    assert snapshot(home) == before
    adopted(clipctl, theirs, "--name", "again")
    with open_store(home) as store:
        assert {run.name for run in store.runs()} == {"theirs", "again"}


def test_a_folder_that_is_in_use(theirs: Experiment, clipctl: Clipctl, home: Path) -> None:
    """As of a launch of the same name that has just made it."""
    killed(theirs)
    folder = RunFolder.of(home, "theirs")
    folder.path.mkdir(parents=True)
    folder.run.write_text("{}")
    said = clipctl("adopt", str(theirs.folder), *LOCAL)
    assert said.code == ExitStatus.REFUSED and "is in use already" in said.err
    assert [path.name for path in (home / "runs").iterdir()] == ["theirs"]
    assert folder.run.read_text() == "{}"


def test_another_run_took_the_name_in_the_meantime_elsewhere(
    theirs: Experiment, clipctl: Clipctl, home: Path, tmp_path: Path
) -> None:
    """Found by the store alone, as the folders lie below two roots."""
    killed(theirs)
    adopted(clipctl, theirs)
    root = tmp_path / "root"
    wish = operation.Wish(name="theirs", cluster="local", sets=(f"root={root}",))
    plan = operation.plan(theirs.folder, wish, fallback=lambda: None, tell=lambda *_: None, clock=SystemClock())
    with open_store(home) as store, pytest.raises(Refused, match="a run named 'theirs' exists"):
        operation.adopt(plan, actor="ada", store=store, clock=SystemClock())
    assert list((root / "runs").iterdir()) == []


def test_options_without_a_like_are_told_all_at_once_and_left_out_by_name(
    theirs: Experiment, clipctl: Clipctl, home: Path
) -> None:
    killed(theirs)
    theirs.set(val_data="/data/val.tar", torchcompile=True, lock_image=False, a_forks_own="7", wandb_notes="x")
    complaint = refused(clipctl, home, ExitStatus.INVALID, str(theirs.folder), *LOCAL)
    assert [line.split("params.txt: ")[1] for line in complaint.splitlines()[:3]] == [
        "a_forks_own: 7: clipctl's trainer has no such option",
        "torchcompile: True: clipctl's trainer has no such option",
        "val_data: /data/val.tar: clipctl's trainer measures zero-shot accuracy alone",
    ]
    assert "--without a_forks_own --without torchcompile --without val_data" in complaint
    without = [f"--without={name}" for name in ("a_forks_own", "torchcompile", "val_data")]
    complaint = refused(clipctl, home, ExitStatus.INVALID, str(theirs.folder), *LOCAL, *without, "--without=lr")
    assert "--without lr: " in complaint
    adopted(clipctl, theirs, *without)


@pytest.mark.parametrize(
    ("changed", "options", "said"),
    [
        ({"lr": "fast"}, (), "params.txt: lr: fast: is not a number"),
        ({"precision": "pure_bf16"}, (), "precision: pure_bf16: clipctl's trainer keeps its weights in float32"),
        ({"model": "coca_ViT-B-32"}, (), "model: coca_ViT-B-32: clipctl's trainer has no caption loss"),
        ({"train_data": "a/{0..7}.tar"}, (), "params.txt: train.data.train_data=a/{0..7}.tar: must be absolute"),
        ({"warmup": 100}, (), "train.optim.warmup=100: must be less than the run's 30 steps"),
        ({}, ("--set", "train.optim.lr=1"), "--set train.optim.lr: "),
        ({}, ("--set", "train={batch_size: 3}"), "--set train: "),
        ({}, ("--set", "resources.ranks_per_node=1"), "resources: 1 x 1 ranks: it was trained by 2"),
        ({}, ("--set", "train.bach_size=1"), "train.bach_size: no such key"),
        ({"world_size": None}, (), "no world_size: it does not say how many ranks there were"),
        ({}, ("--name", "a b"), 'name="a b": must be 1 to 64 of'),
    ],
)  # fmt: skip
def test_values_that_cannot_be(
    changed: dict[str, object], options: tuple[str, ...], said: str, theirs: Experiment, clipctl: Clipctl, home: Path
) -> None:
    killed(theirs)
    theirs.set(**changed)
    assert said in refused(clipctl, home, ExitStatus.INVALID, str(theirs.folder), *LOCAL, *options)


def test_a_cluster_is_told_what_it_needs_and_gets_as_many_nodes_as_there_were(
    theirs: Experiment, clipctl: Clipctl, home: Path, tmp_path: Path
) -> None:
    killed(theirs)
    theirs.set(world_size=8)
    where = ("--cluster", "juwels-booster")
    complaint = refused(clipctl, home, ExitStatus.INVALID, str(theirs.folder), *where)
    assert "slurm.account: is missing: juwels-booster bills a project" in complaint
    assert "root: is missing: a folder that all nodes of juwels-booster see" in complaint
    given = ("--set", "slurm.account=mine", "--set", f"root={tmp_path}/root")
    assert clipctl("adopt", str(theirs.folder), *where, *given).code == 0
    spec = json.loads((tmp_path / "root/runs/theirs/run.json").read_text())["spec"]
    assert (spec["resources"], spec["slurm"]["account"]) == ({"nodes": 2, "ranks_per_node": 4}, "mine")
    theirs.set(world_size=9)
    complaint = refused(clipctl, home, ExitStatus.INVALID, str(theirs.folder), *where, *given, "--name", "odd")
    assert "resources: 1 x 4 ranks: it was trained by 9" in complaint


def test_where_its_data_lies_may_be_said_anew(theirs: Experiment, clipctl: Clipctl, home: Path) -> None:
    killed(theirs)
    theirs.set(train_data="data/{00..07}.tar", imagenet_val="imagenet")
    moved = ("--set", "train.data.train_data=/new/{00..07}.tar", "--set", "train.zeroshot=null")
    said = adopted(clipctl, theirs, *moved)
    assert "not on this machine now: train.data.train_data=/new/{00..07}.tar" in said.err
    spec = json.loads(RunFolder.of(home, "theirs").run.read_text())["spec"]
    assert (spec["train"]["data"]["train_data"], spec["train"]["zeroshot"]) == ("/new/{00..07}.tar", None)


def test_who_is_interrupted_at_the_last_moment_has_nothing(
    theirs: Experiment, clipctl: Clipctl, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(theirs)

    def interrupted(*_: object) -> None:
        assert (home / "runs/theirs/decisions.jsonl").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "adopt", interrupted)
        refused(clipctl, home, ExitStatus.INTERRUPTED, str(theirs.folder), *LOCAL)
    adopted(clipctl, theirs)


def test_what_cannot_be_read_is_named(theirs: Experiment, clipctl: Clipctl, home: Path) -> None:
    (theirs.folder / "params.txt").unlink()
    (theirs.folder / "params.txt").symlink_to("params.txt")
    complaint = refused(clipctl, home, ExitStatus.UNAVAILABLE, str(theirs.folder), *LOCAL)
    assert f"{theirs.folder}/params.txt: Too many levels of symbolic links" in complaint


def test_a_place_that_cannot_be_written_leaves_nothing(theirs: Experiment, clipctl: Clipctl, tmp_path: Path) -> None:
    killed(theirs)
    (tmp_path / "file").touch()
    said = clipctl("adopt", str(theirs.folder), *LOCAL, "--set", f"root={tmp_path}/file")
    assert said.code == ExitStatus.UNAVAILABLE and "nothing was taken over" in said.err
