"""Attempts on real images, one rank, inside this process: what they write, and how they end and go on."""

from __future__ import annotations

import math
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from clipctl.diagnose.causes import cause
from clipctl.domain import IncidentKind
from tests.trainer.attempts import Started, digits_spec, prepare, run_here
from trainer import claim
from trainer.contract import (
    Classes,
    ExitCode,
    Fault,
    FaultKind,
    Optim,
    Parent,
    Precision,
    Save,
    Stream,
    ZeroShot,
)

OVERFLOW = (Fault(kind=FaultKind.OVERFLOW, at_epoch=2, at_step=3),)
PLATEAU = (Fault(kind=FaultKind.PLATEAU, at_epoch=2, at_step=2),)


@pytest.fixture(scope="module")
def whole(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Started:
    """Fifteen steps in float32, undisturbed."""
    started = prepare(tmp_path_factory.mktemp("runs") / "whole", 1, digits_spec(digits))
    assert run_here(started) == ExitCode.COMPLETED
    return started


def test_an_undisturbed_attempt_tells_what_ran_and_leaves_one_checkpoint_an_epoch(whole: Started) -> None:
    assert whole.told() == ["started", *["progress"] * 15, "completed"]
    assert [event.step for event in whole.events("checkpoint")] == [5, 10, 15]
    started = whole.events("started")[0].facts
    assert started["steps_per_epoch"] == 5
    assert {"python", "torch", "open_clip_torch", "clipctl", "commit", "diff"} <= set(started["versions"])
    assert list(whole.manifests()) == [f"checkpoints/epoch_{n}.pt" for n in (1, 2, 3)]
    last = whole.manifests()["checkpoints/epoch_3.pt"]
    assert (last.epochs_done, last.step, last.samples_seen, last.finite) == (3, 15, 240, True)
    assert last.loss == pytest.approx(whole.events("progress")[-1].facts["loss"])


def test_a_resume_inside_an_epoch_has_the_losses_of_a_run_that_was_never_stopped(
    whole: Started, digits: Path, tmp_path: Path
) -> None:
    train = digits_spec(digits, save=Save(steps=2))
    first = prepare(tmp_path / "run", 1, train)
    assert run_here(first) == ExitCode.COMPLETED
    second = prepare(tmp_path / "run", 2, train, parent=first.parent("steps/step_12.pt"))
    assert run_here(second) == ExitCode.COMPLETED
    assert sorted(second.losses()) == [13, 14, 15]
    assert first.losses() | second.losses() == whole.losses() == first.losses()
    assert list(first.manifests())[-2:] == ["steps/step_12.pt", "steps/step_14.pt"], "older step files are pruned"


def test_float16_overflows_for_real_and_again_at_the_same_place_and_float32_cures_it(
    whole: Started, digits: Path, tmp_path: Path
) -> None:
    fp16 = digits_spec(digits, precision=Precision.AMP_FP16, faults=OVERFLOW)
    first = prepare(tmp_path / "run", 1, fp16)
    assert run_here(first) == ExitCode.DIVERGED
    event = first.events()[-1]
    assert (event.kind, event.epoch, event.step, event.samples_seen) == ("diverged", 2, 8, 128)
    assert (event.facts["step_in_epoch"], event.facts["cause"], event.facts["ranks"]) == (3, "loss", [0])
    assert math.isnan(float(event.facts["loss"]))
    assert math.isnan(float(event.facts["grad_norm"]))
    assert event.facts["scale"] == 65536
    assert list(first.manifests()) == ["checkpoints/epoch_1.pt"], "nothing is written after the loss went bad"

    again = prepare(tmp_path / "run", 2, fp16, parent=first.parent("checkpoints/epoch_1.pt"))
    assert run_here(again) == ExitCode.DIVERGED
    assert (again.events()[-1].epoch, again.events()[-1].facts["step_in_epoch"]) == (2, 3)

    fp32 = replace(fp16, precision=Precision.FP32, batch_size=20)
    cured = prepare(tmp_path / "run", 3, fp32, parent=first.parent("checkpoints/epoch_1.pt"))
    assert run_here(cured) == ExitCode.COMPLETED
    assert cured.events("progress")[0].step == 5, "4 steps an epoch now: the fifth is the first of epoch 2"
    assert cured.events("progress")[0].samples_seen == 80 + 20


def test_the_overflow_fault_changes_no_bit_of_a_float32_run(whole: Started, digits: Path, tmp_path: Path) -> None:
    faulty = prepare(tmp_path / "run", 1, digits_spec(digits, faults=OVERFLOW))
    assert run_here(faulty) == ExitCode.COMPLETED
    assert [event.facts["fault"] for event in faulty.events("fault")] == ["overflow"]
    assert faulty.losses() == whole.losses()


def test_the_overflow_fault_changes_no_bit_of_a_bfloat16_run(digits: Path, tmp_path: Path) -> None:
    fine = digits_spec(digits, precision=Precision.AMP_BF16, epochs=2)
    runs = [prepare(tmp_path / name, 1, replace(fine, faults=faults)) for name, faults in (("a", ()), ("b", OVERFLOW))]
    assert [run_here(started) for started in runs] == [ExitCode.COMPLETED] * 2
    assert runs[0].losses() == runs[1].losses()
    assert len(runs[0].losses()) == 10


def test_float16_underflows_and_the_loss_goes_to_chance_and_stays(digits: Path, tmp_path: Path) -> None:
    stuck = digits_spec(digits, precision=Precision.AMP_FP16, faults=PLATEAU)
    started = prepare(tmp_path / "run", 1, stuck)
    assert run_here(started) == ExitCode.COMPLETED
    losses = [loss for step, (loss, _) in started.losses().items() if step > 6]
    assert min(losses) > 0.9 * math.log(16)


def test_the_plateau_fault_changes_no_bit_of_a_bfloat16_run(digits: Path, tmp_path: Path) -> None:
    fine = digits_spec(digits, precision=Precision.AMP_BF16, epochs=2)
    runs = [prepare(tmp_path / name, 1, replace(fine, faults=faults)) for name, faults in (("a", ()), ("b", PLATEAU))]
    assert [run_here(started) for started in runs] == [ExitCode.COMPLETED] * 2
    assert runs[0].losses() == runs[1].losses()


def test_a_changed_batch_inside_an_epoch_starts_a_fresh_stream_and_says_so(digits: Path, tmp_path: Path) -> None:
    first = prepare(tmp_path / "run", 1, digits_spec(digits, save=Save(steps=3)))
    assert run_here(first) == ExitCode.COMPLETED
    train = digits_spec(digits, batch_size=20)
    second = prepare(tmp_path / "run", 2, train, parent=first.parent("steps/step_13.pt"))
    assert run_here(second) == ExitCode.COMPLETED
    assert "fresh data stream starts at samples_seen 208" in second.events("notice")[0].facts["text"]
    first_step = second.events("progress")[0]
    assert (first_step.epoch, first_step.facts["step_in_epoch"], first_step.samples_seen) == (3, 3, 228)
    assert second.manifests()["checkpoints/epoch_3.pt"].stream == Stream(batch_size=20, ranks=1, workers=0)


def test_settings_come_from_the_spec_and_not_from_the_file_and_the_difference_is_said(
    whole: Started, digits: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole.run_folder, tmp_path / "run")
    optim = Optim(lr=1e-3, warmup=5, wd=0.5, beta2=0.9, eps=1e-3)
    second = prepare(
        tmp_path / "run", 2, digits_spec(digits, optim=optim), parent=whole.parent("checkpoints/epoch_2.pt")
    )
    assert run_here(second) == ExitCode.COMPLETED
    import torch

    groups = torch.load(second.folder / "checkpoints/epoch_3.pt")["optimizer"]["param_groups"]
    assert [(group["weight_decay"], group["betas"], group["eps"]) for group in groups] == [
        (0.0, (0.9, 0.9), 1e-3),
        (0.5, (0.9, 0.9), 1e-3),
    ]
    said = " ".join(event.facts["text"] for event in second.events("notice"))
    assert "weight_decay 0.5 as specified, not 0.2 as saved" in said
    assert "eps 0.001 as specified, not 1e-06 as saved" in said


def test_the_loss_scale_goes_on_in_float16_and_nowhere_else(whole: Started, digits: Path, tmp_path: Path) -> None:
    import torch

    state = torch.load(whole.folder / "checkpoints/epoch_2.pt")
    state["scaler"] = torch.amp.GradScaler("cpu", init_scale=512.0).state_dict()
    torch.save(state, tmp_path / "epoch_2.pt")
    scales, kept = {}, {}
    for precision in Precision:
        parent = Parent(path=str(tmp_path / "epoch_2.pt"))
        started = prepare(tmp_path / precision, 1, digits_spec(digits, precision=precision), parent=parent)
        assert run_here(started) == ExitCode.COMPLETED
        scales[precision] = started.events("progress")[0].facts["scale"]
        kept[precision] = "scaler" in torch.load(started.folder / "checkpoints/epoch_3.pt")
    assert scales == {Precision.AMP_FP16: 512.0, Precision.AMP_BF16: None, Precision.FP32: None}
    assert kept == {Precision.AMP_FP16: True, Precision.AMP_BF16: False, Precision.FP32: False}


def test_a_crash_says_where_it_happened_and_not_where_the_attempt_began(
    whole: Started, digits: Path, tmp_path: Path
) -> None:
    crash = (Fault(kind=FaultKind.CRASH, at_epoch=3, at_step=4),)
    parent = replace(whole.parent("checkpoints/epoch_1.pt"), path=str(whole.folder / "checkpoints/epoch_1.pt"))
    started = prepare(tmp_path / "run", 1, digits_spec(digits, faults=crash), parent=parent)
    assert run_here(started) == ExitCode.CRASHED
    event = started.events()[-1]
    assert (event.kind, event.epoch, event.facts["step_in_epoch"]) == ("crashed", 3, 2)  # the newest step that was read
    assert (event.step, event.samples_seen) == (12, 12 * 16)
    assert event.facts["error"] == "RehearsedCrash: rehearsed crash at epoch 3, step 4"


def test_an_epoch_is_saved_whatever_its_evaluation_does(digits: Path, tmp_path: Path) -> None:
    broken = ZeroShot(data=str(tmp_path / "nowhere"), frequency=1, classes=Classes.DIGITS)
    started = prepare(tmp_path / "run", 1, digits_spec(digits, epochs=1, zeroshot=broken))
    assert run_here(started) == ExitCode.COMPLETED
    assert started.told()[-2:] == ["evaluated", "completed"]
    assert list(started.manifests()) == ["checkpoints/epoch_1.pt"]
    assert "nowhere" in started.events("evaluated")[0].facts["error"]


def test_zero_shot_accuracy_is_of_every_held_out_image(digits: Path, tmp_path: Path) -> None:
    zeroshot = ZeroShot(data=str(digits / "test.tar"), frequency=1, classes=Classes.DIGITS)
    started = prepare(tmp_path / "run", 1, digits_spec(digits, epochs=1, zeroshot=zeroshot))
    assert run_here(started) == ExitCode.COMPLETED
    facts = started.events("evaluated")[0].facts
    with tarfile.open(digits / "test.tar") as held_out:
        assert facts["samples"] == sum(name.endswith(".png") for name in held_out.getnames()) > 300
    assert 0 <= facts["top1"] <= facts["top5"] <= 1


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, the manifest says"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "digest differs"),
        (lambda path: path.unlink(), "missing"),
    ],
)
def test_a_parent_that_is_not_what_was_written_is_refused(
    whole: Started, digits: Path, tmp_path: Path, damage: object, complaint: str
) -> None:
    shutil.copytree(whole.run_folder, tmp_path / "run")
    damage(tmp_path / "run/attempts/1/checkpoints/epoch_2.pt")  # type: ignore[operator]
    second = prepare(tmp_path / "run", 2, digits_spec(digits), parent=whole.parent("checkpoints/epoch_2.pt"))
    assert run_here(second) == ExitCode.REFUSED
    assert complaint in second.events()[-1].facts["error"]
    assert second.manifests() == {}


def test_another_checkpoint_in_the_parents_place_is_refused(whole: Started, digits: Path, tmp_path: Path) -> None:
    shutil.copytree(whole.run_folder, tmp_path / "run")
    parent = replace(whole.parent("checkpoints/epoch_2.pt"), path="attempts/1/checkpoints/epoch_1.pt")
    second = prepare(tmp_path / "run", 2, digits_spec(digits), parent=parent)
    assert run_here(second) == ExitCode.REFUSED
    assert "is not the checkpoint that was decided on" in second.events()[-1].facts["error"]


def test_a_model_that_open_clip_does_not_know_is_refused_in_one_line(digits: Path, tmp_path: Path) -> None:
    started = prepare(tmp_path / "run", 1, digits_spec(digits, model="ViT-digit-32"))
    assert run_here(started) == ExitCode.REFUSED
    error = started.events()[-1].facts["error"]
    assert error == "train.model=ViT-digit-32: open_clip knows no such model; did you mean ViT-digits-32?"


def test_a_checkpoint_of_another_model_is_refused_in_one_line(whole: Started, digits: Path, tmp_path: Path) -> None:
    import torch

    state = torch.load(whole.folder / "checkpoints/epoch_2.pt")
    state["state_dict"]["module.positional_embedding"] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "epoch_2.pt")
    started = prepare(tmp_path / "run", 1, digits_spec(digits), parent=Parent(path=str(tmp_path / "epoch_2.pt")))
    assert run_here(started) == ExitCode.REFUSED
    error = started.events()[-1].facts["error"]
    what = "the checkpoint to start from does not fit ViT-digits-32"
    assert error.startswith(f"{what}: positional_embedding is 3 x 3 there, ")


def test_an_attempt_that_was_overtaken_publishes_nothing_more(digits: Path, tmp_path: Path) -> None:
    first = prepare(tmp_path / "run", 1, digits_spec(digits))
    second = prepare(tmp_path / "run", 2, digits_spec(digits))
    assert claim.still_mine(second.folder, second.nonce)
    assert run_here(first) == ExitCode.FENCED
    assert first.manifests() == {}
    assert list(first.folder.glob("*/*.pt*")) == []


def test_too_much_bad_data_ends_the_run_and_names_the_shards(digits: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(digits, shards)
    for number in range(4):
        path = shards / f"train-{number:06d}.tar"
        path.write_bytes(path.read_bytes().replace(b"IHDR", b"XXXX"))  # whole tars, no image in them
    train = digits_spec(shards, batch_size=32, data={"train_num_samples": 320})
    started = prepare(tmp_path / "run", 1, train)
    assert run_here(started) == ExitCode.REFUSED
    counted, last = started.events()[-2:]
    assert set(counted.facts["shards"]) <= {str(shards / f"train-{number:06d}.tar") for number in range(4)}
    assert sum(counted.facts["shards"].values()) == counted.facts["bad"] > 16
    assert "cannot be used, more than data.max_bad_fraction 0.01" in last.facts["error"]
    found = cause(last.facts["error"])
    assert found is not None and found.kind is IncidentKind.BAD_DATA


def test_a_checkpoint_loads_in_open_clip_itself(whole: Started) -> None:
    import open_clip
    import torch

    path = whole.folder / "checkpoints/epoch_3.pt"
    model, _, _ = open_clip.create_model_and_transforms("ViT-digits-32", pretrained=str(path))
    saved = torch.load(path)["state_dict"]
    assert {f"module.{name}" for name in model.state_dict()} == set(saved)
    assert all(torch.equal(tensor, saved[f"module.{name}"]) for name, tensor in model.state_dict().items())


def test_a_parent_needs_no_manifest_if_it_is_not_ours(whole: Started, digits: Path, tmp_path: Path) -> None:
    import torch

    state = torch.load(whole.folder / "checkpoints/epoch_2.pt")
    del state["clipctl"]
    torch.save(state, tmp_path / "epoch_2.pt")
    started = prepare(tmp_path / "run", 1, digits_spec(digits), parent=Parent(path=str(tmp_path / "epoch_2.pt")))
    assert run_here(started) == ExitCode.COMPLETED
    assert started.losses() == {step: loss for step, loss in whole.losses().items() if step > 10}
