"""What can be asked before anything runs: presets, plans, scripts, and refusals that leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clipctl.errors import ExitStatus
from clipctl.home import home
from tests.cli.conftest import Clipctl

OVERFLOW = "train.faults=[{kind: overflow, at_epoch: 2, at_step: 10}]"


def test_a_dry_run_shows_the_plan_and_writes_nothing(clipctl: Clipctl):
    said = clipctl("launch", "demo", "--dry-run", "--name", "tiny", "--set", "train.batch_size=64")
    assert said.code == ExitStatus.OK
    assert "launch tiny on local" in said.out
    assert "ranks x 64 = " in said.out
    assert "the digits are written there first" in said.out
    assert not home().exists()


def test_forward_passes_count_in_the_plan(clipctl: Clipctl):
    sets = ["train.batch_size=12", "train.accum_freq=4", "resources.ranks_per_node=2"]
    said = clipctl("launch", "demo", "--dry-run", *(word for value in sets for word in ("--set", value)))
    assert "2 ranks x 12 x 4 forward passes = 96" in said.out
    assert "10 epochs of 40 steps, 3,840 samples" in said.out


def test_a_rehearsed_fault_is_said_in_the_plan(clipctl: Clipctl):
    said = clipctl("launch", "demo", "--dry-run", "--set", OVERFLOW)
    assert "REHEARSAL: carries the fault overflow from epoch 2, step 10" in said.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ("launch", "demoo"),
            ExitStatus.NOT_FOUND,
            ["error: no preset demoo; did you mean demo?", "hint: clipctl presets"],
        ),
        (("launch", "./demo.yaml"), ExitStatus.NOT_FOUND, ["demo.yaml: no such file"]),
        (("launch", "demo", "--name", "a/b"), ExitStatus.INVALID, ["error: name=a/b: must be", "try a-b"]),
        (("launch", "demo", "--set", "train.lr=1"), ExitStatus.INVALID, ["did you mean train.optim.lr?"]),
        (("resume", "ghost"), ExitStatus.NOT_FOUND, ["there is no run 'ghost'", "hint: clipctl status --all"]),
        (("status", "ghost"), ExitStatus.NOT_FOUND, ["there is no run 'ghost'"]),
        (("status", "a\nb"), ExitStatus.NOT_FOUND, [r"there is no run 'a\nb'"]),
        (("logs", "ghost"), ExitStatus.NOT_FOUND, ["there is no run 'ghost'"]),
        (("show", "ghost"), ExitStatus.NOT_FOUND, ["there is no run 'ghost'"]),
        (("cancel", "ghost"), ExitStatus.NOT_FOUND, ["there is no run 'ghost'"]),
        (("cancel",), ExitStatus.USAGE, ["error: Missing argument"]),
        (("resume",), ExitStatus.REFUSED, ["no run can be resumed"]),
        (("resume", "x", "--epoch", "2", "--step", "3"), ExitStatus.USAGE, ["exclude each other"]),
        (("presets", "show", "l15"), ExitStatus.NOT_FOUND, ["there is no preset or cluster 'l15'"]),
        (("statsu",), ExitStatus.USAGE, ["No such command 'statsu'", "hint: clipctl --help"]),
    ],
)
def test_what_is_wrong_is_said_on_stderr_with_a_code_and_a_hint(
    clipctl: Clipctl, arguments: tuple[str, ...], code: ExitStatus, words: list[str]
):
    said = clipctl(*arguments)
    assert (said.code, said.out) == (code, "")
    assert all(line.startswith(("error: ", "hint: ")) for line in said.err.splitlines())
    for text in words:
        assert text in said.err


def test_all_mistakes_are_named_at_once(clipctl: Clipctl):
    said = clipctl("launch", "demo", "--set", "train.epochs=-1", "--set", "train.batch_size=0", "--name", "a\nb")
    assert said.code == ExitStatus.INVALID
    assert len([line for line in said.err.splitlines() if line.startswith("error: ")]) == 3
    assert not home().exists()


def test_mistakes_are_told_to_programs_too(clipctl: Clipctl):
    said = clipctl("validate", "demo", "--set", "train.epochs=-1", "--set", "quux=1", "--json")
    told = json.loads(said.out)
    assert (said.code, told["schema"], told["valid"], len(told["problems"])) == (ExitStatus.INVALID, 1, False, 2)
    assert said.err.splitlines() == [f"error: {line}" for line in told["problems"]]
    said = clipctl("validate", "demo", "--json")
    assert (said.code, json.loads(said.out)) == (ExitStatus.OK, {"schema": 1, "valid": True, "problems": []})


def test_data_that_is_not_there_is_refused_before_anything_is_written(clipctl: Clipctl, tmp_path: Path):
    missing = tmp_path / "shards" / "{0..3}.tar"
    said = clipctl("launch", "demo", "--set", f"train.data.train_data={missing}")
    assert said.code == ExitStatus.INVALID
    assert "matches no file" in said.err
    assert not home().exists()
    assert not missing.parent.exists()


def test_a_home_that_is_not_to_be_trusted_gets_no_digits_either(clipctl: Clipctl):
    home().mkdir()
    home().chmod(0o777)
    said = clipctl("launch", "demo")
    assert said.code == ExitStatus.REFUSED
    assert "is writable for everybody" in said.err
    assert list(home().iterdir()) == []


def test_a_home_that_begins_with_digits_is_its_owners_alone(clipctl: Clipctl):
    assert clipctl("data", "digits").code == ExitStatus.OK
    assert home().stat().st_mode & 0o777 == 0o700


def test_render_prints_a_script_that_bash_can_read(clipctl: Clipctl):
    said = clipctl("render", "demo", "--name", "tiny")
    assert said.out.startswith("#!")
    assert said.out.endswith("\n")
    subprocess.run(["bash", "-n"], input=said.out, text=True, check=True)


def test_a_script_can_be_looked_at_where_the_data_is_not(clipctl: Clipctl):
    said = clipctl("render", "demo", "--set", "train.data.train_data=/elsewhere/{0..3}.tar")
    assert (said.code, said.err) == (ExitStatus.OK, "")
    assert said.out.startswith("#!")


def test_render_is_a_function_of_its_arguments(clipctl: Clipctl):
    assert clipctl("render", "demo") == clipctl("render", "demo")


def test_a_file_is_launched_by_its_path(clipctl: Clipctl, tmp_path: Path):
    spec = tmp_path / "mine.yaml"
    spec.write_text("extends: demo\ntrain:\n  epochs: 3\n")
    assert "launch mine on local" in clipctl("launch", str(spec), "--dry-run").out
    assert clipctl("validate", str(spec)).out.startswith(f"{spec} is a valid spec: run mine on local, ")


def test_presets_are_listed_and_shown(clipctl: Clipctl):
    assert "  l14-laion2b\n" in clipctl("presets").out
    listed = json.loads(clipctl("presets", "--json").out)
    assert listed["schema"] == 1
    assert "demo" in listed["presets"]
    assert "model: ViT-L-14" in clipctl("presets", "show", "l14-laion2b").out
    assert json.loads(clipctl("presets", "show", "demo", "--json").out)["spec"]["train"]["model"] == "ViT-digits-32"
    assert json.loads(clipctl("presets", "show", "local", "--json").out)["cluster"]["limits"]["lost_after"] == 0


def test_reading_an_empty_store_creates_none(clipctl: Clipctl):
    assert clipctl("status").out == "no runs yet: clipctl launch demo --follow\n"
    view = json.loads(clipctl("status", "--json").out)
    assert (view["schema"], view["runs"]) == (1, [])
    assert not home().exists()


def test_digits_are_written_where_one_says(clipctl: Clipctl, tmp_path: Path):
    said = clipctl("data", "digits", str(tmp_path / "digits"))
    assert said.out.endswith("images to train on, 355 held out\n")
    assert (tmp_path / "digits" / "test.tar").exists()


# --- what every command owes ------------------------------------------------------------------------

HEAVY = ("sqlmodel", "sqlalchemy", "pydantic", "submitit", "torch", "fabric", "rich")


@pytest.mark.parametrize("arguments", [["--help"], ["status"], ["resume", "--help"], ["presets"]])
def test_nothing_heavy_is_imported_by_what_must_be_instant(arguments: list[str]):
    code = (
        "import sys; import clipctl.cli as c; sys.argv = ['clipctl', *sys.argv[1:]]\n"
        "try: c.main()\nexcept SystemExit: pass\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_completion_knows_presets(process: Clipctl):
    said = process(_CLIPCTL_COMPLETE="complete_bash", COMP_WORDS="clipctl launch d", COMP_CWORD="2")
    assert said.out.split() == ["demo"]
