"""What `clipctl eval` refuses, and says before it submits; `evals` while nothing is there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from clipctl.errors import ExitStatus
from clipctl.store import open_store
from tests.cli.conftest import Clipctl, Said
from tests.ops.theatre import Stage, demo
from tests.trainer.benchmark_sets import PROMPTS, write_set

ONE = ("--dataset", "digits")


@pytest.fixture
def run(home: Path) -> str:
    """With checkpoints of epochs 1 and 2, of which that of epoch 2 is in two attempts; and one within an epoch."""
    with open_store(home) as store:
        stage = Stage(store, demo())
        stage.launch()
        stage.save(1)
        stage.save(2)
        stage.save(2, into=5)
        stage.end(1)
        stage.resume(epoch=2)
        stage.save(2)
        stage.end(1)
    return "tiny"


@pytest.fixture
def sets(tmp_path: Path) -> tuple[str, str]:
    write_set(tmp_path / "sets", "digits", [{"png": b"", "cls": b"0"}], files=PROMPTS)
    return "--dataset-root", str(tmp_path / "sets")


def refusal(said: Said, code: ExitStatus) -> list[str]:
    assert (said.code, said.out) == (code, ""), said
    return said.err.splitlines()


def test_the_plan_names_the_file_and_changes_nothing(
    clipctl: Clipctl, run: str, home: Path, sets: tuple[str, str]
) -> None:
    said = clipctl("eval", run, "--epoch", "2", *ONE, *sets, "--dry-run")
    assert said.code == ExitStatus.OK
    assert said.out.splitlines() == [
        "evaluate tiny: epoch 2 on digits",
        "  checkpoint  attempts/2/checkpoints/epoch_2.pt",  # of the line on which the run stands
        "  model       ViT-digits-32, in fp32 (TF32 matrix products)",
        f"  sets        1 set below {sets[1]}",
        "  job         one process on local",
    ]
    assert not (home / "runs" / run / "evals").exists()
    assert "no checkpoint of 'tiny' was evaluated yet" in clipctl("evals", run).out


def test_a_program_is_told_the_same(clipctl: Clipctl, run: str, home: Path, sets: tuple[str, str]) -> None:
    said = json.loads(clipctl("eval", run, "--epoch", "2", *ONE, *sets, "--dry-run", "--json").out)
    assert (said["schema"], said["submitted"]) == (1, None)
    evaluation = said["evaluation"]
    assert (evaluation["epoch"], evaluation["datasets"], evaluation["attempt"]) == (2, ["digits"], 2)
    assert not (home / "runs" / run / "evals").exists()


def test_an_epoch_that_is_not_there_is_told_with_those_that_are(clipctl: Clipctl, run: str) -> None:
    assert refusal(clipctl("eval", run, "--epoch", "69"), ExitStatus.NOT_FOUND) == [
        "error: run 'tiny' has no sound epoch_69.pt; it has those of the epochs 1, 2",
        "hint: clipctl eval tiny --epoch 2",
    ]


def test_without_a_folder_of_sets_nothing_is_guessed(
    clipctl: Clipctl, run: str, sets: tuple[str, str], tmp_path: Path
) -> None:
    (line,) = refusal(clipctl("eval", run, "--epoch", "1"), ExitStatus.INVALID)
    assert line.startswith("error: --dataset-root: is missing")
    profile = tmp_path / "config" / "clipctl" / "clusters" / "local.yaml"
    profile.parent.mkdir(parents=True)
    profile.write_text(f"extends: local\nevaluation_data: {sets[1]}\n")
    assert f"below {sets[1]}" in clipctl("eval", run, "--epoch", "1", *ONE, "--dry-run").out
    profile.write_text("extends: local\nevaluation_data: sets\n")
    (line,) = refusal(clipctl("eval", run, "--epoch", "1"), ExitStatus.INVALID)
    assert line.startswith("error: evaluation_data=sets: must be absolute")


def test_every_set_that_is_missing_is_a_line(clipctl: Clipctl, run: str, sets: tuple[str, str]) -> None:
    lines = refusal(clipctl("eval", run, "--epoch", "1", "--suite", "retrieval", *sets), ExitStatus.INVALID)
    assert lines[:2] == [
        f"error: mscoco_captions: {sets[1]}/wds_mscoco_captions is not there",
        f"error: flickr30k: {sets[1]}/wds_flickr30k is not there",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--suite", "imagenet"), ExitStatus.NOT_FOUND, "there is no suite 'imagenet'; there are vtab+, retrieval"),
        (("--suite", "vtab+", *ONE), ExitStatus.USAGE, "--suite and --dataset exclude each other"),
        (("--set", "train.precision=fp32"), ExitStatus.INVALID, "train.precision=fp32: an evaluation has its run's"),
        (("--set", "slurm.time=02:00:00"), ExitStatus.INVALID, "slurm.time=02:00:00: is for Slurm"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: tuple[str, ...], code: ExitStatus, said: str, clipctl: Clipctl, run: str, sets: tuple[str, str]
) -> None:
    assert said in refusal(clipctl("eval", run, "--epoch", "1", *arguments, *sets), code)[0]


def test_a_rehearsal_has_no_model_to_evaluate(clipctl: Clipctl, home: Path) -> None:
    with open_store(home) as store:
        stage = Stage(store, demo("train.engine=rehearsal"))
        stage.launch()
        stage.save(1)
        stage.end(1)
    lines = refusal(clipctl("eval", "tiny", "--epoch", "1", *ONE), ExitStatus.REFUSED)
    assert lines[0] == "error: run 'tiny' is a rehearsal: it trains no model"


def test_without_the_extra_one_line_says_what_to_install(
    clipctl: Clipctl, run: str, sets: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lines = refusal(clipctl("eval", run, "--epoch", "1", *ONE, *sets), ExitStatus.INVALID)
    assert lines[0].startswith("error: clip_benchmark is not installed for ")
    assert lines[1] == "hint: pip install 'clipctl[eval]'"


def test_a_damaged_checkpoint_is_found_before_anything_is_submitted(
    clipctl: Clipctl, run: str, home: Path, sets: tuple[str, str]
) -> None:
    file = home / "runs" / run / "attempts" / "1" / "checkpoints" / "epoch_1.pt"
    file.write_bytes(bytes(reversed(file.read_bytes())))
    said = clipctl("eval", run, "--epoch", "1", *ONE, *sets)
    assert said.code == ExitStatus.UNAVAILABLE
    assert said.err.startswith("error: attempts/1/checkpoints/epoch_1.pt: not the bytes that were written\n")
    assert not (home / "runs" / run / "evals").exists()
    again = clipctl("eval", run, "--epoch", "1", *ONE, *sets)
    assert again.err.startswith("error: run 'tiny' has no sound epoch_1.pt; it has those of the epochs 2\n")
