"""Attempts of the rehearsal engine, one rank, inside this process: as true as torch's, in milliseconds."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.attempts import Started, digits_spec, prepare, rehearsal_spec, run_here
from trainer.contract import NONCE_VARIABLE, ExitCode, Fault, FaultKind, Precision, Rehearsal, Save, ZeroShot, dumps
from trainer.evaluation import Evaluation
from trainer.pruning import AWAITED_FOR
from trainer.rank import SETTLE, Rank
from trainer.signals import StopRequest

OVERFLOW = (Fault(kind=FaultKind.OVERFLOW, at_epoch=2, at_step=3),)
PLATEAU = (Fault(kind=FaultKind.PLATEAU, at_epoch=2, at_step=2),)


def completed(folder: Path, **changes: Any) -> Started:
    started = prepare(folder / "run", 1, rehearsal_spec(**changes))
    assert run_here(started) == ExitCode.COMPLETED
    return started


def test_a_rank_needs_neither_torch_nor_open_clip_nor_data(tmp_path: Path) -> None:
    started = prepare(tmp_path / "run", 1, rehearsal_spec(zeroshot=ZeroShot(data="/nowhere", frequency=1)))
    command = [sys.executable, "-P", "-X", "importtime", "-m", "trainer", str(started.folder)]
    environ = os.environ | {NONCE_VARIABLE: started.nonce}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    imported = {line.rsplit("|", 1)[1].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert {"trainer", "numpy"} <= imported
    assert not imported & {"torch", "open_clip", "webdataset", "tensorboard", "PIL", "pydantic", "clipctl"}
    assert started.told() == ["started", *(["progress"] * 5 + ["evaluated"]) * 3, "completed"]
    assert [event.step for event in started.events("checkpoint")] == [5, 10, 15]
    assert started.events("started")[0].facts["engine"] == "rehearsal"


@pytest.mark.parametrize("precision", Precision)
def test_it_learns_what_it_has_never_seen(precision: Precision, tmp_path: Path) -> None:
    long = {"data": {"train_num_samples": 1600}, "zeroshot": ZeroShot(data="/nowhere", frequency=1)}
    started = completed(tmp_path, precision=precision, **long)
    losses = [event.facts["loss"] for event in started.events("progress")]
    assert max(losses[:5]) > math.log(16) / 2
    assert max(losses[-20:]) < 0.6
    last = started.events("evaluated")[-1].facts
    assert 0.6 < last["top1"] <= last["top5"] <= 1, "one of fifty held-out texts"


def test_who_only_follows_another_ranks_end_says_so_and_leaves_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = prepare(tmp_path / "run", 1, rehearsal_spec())
    waits: list[tuple[float, list[str]]] = []

    def hears(rank: Rank) -> None:
        raise ConnectionError("rank 1 has left")

    monkeypatch.setattr(Rank, "run", hears)
    monkeypatch.setattr("trainer.rank.time.sleep", lambda seconds: waits.append((seconds, started.told())))
    assert run_here(started) == ExitCode.CRASHED
    assert waits == [(SETTLE, ["crashed"])]


def test_what_an_evaluation_waits_for_stays_until_it_is_over(tmp_path: Path) -> None:
    started = prepare(tmp_path / "run", 1, rehearsal_spec(epochs=6, save=Save(keep_last=1)))
    waits, over, lost = (asked(started, epoch) for epoch in (1, 2, 3))
    (over / "exit.json").write_text("{}")
    long_ago = time.time() - AWAITED_FOR - 60
    os.utime(lost / "evaluation.json", (long_ago, long_ago))
    assert run_here(started) == ExitCode.COMPLETED
    assert sorted(started.manifests()) == ["checkpoints/epoch_1.pt", "checkpoints/epoch_6.pt"]
    (waits / "exit.json").write_text("{}")
    (asked(started, 7) / "evaluation.json").write_text("{")
    train = rehearsal_spec(epochs=7, save=Save(keep_last=1))
    second = prepare(tmp_path / "run", 2, train, parent=started.parent("checkpoints/epoch_6.pt"))
    assert run_here(second) == ExitCode.COMPLETED
    assert list(started.manifests()) == ["checkpoints/epoch_6.pt"], "from which the second one started"


def asked(started: Started, epoch: int) -> Path:
    """The folder of an evaluation of that epoch."""
    folder = started.run_folder / "evals" / f"e{epoch}"
    folder.mkdir(parents=True)
    evaluation = Evaluation(
        run="r", nonce=folder.name, epoch=epoch, attempt=1, checkpoint=f"attempts/1/checkpoints/epoch_{epoch}.pt",
        digest="", train=rehearsal_spec(), suite="", datasets=(), data="", batch_size=1,
    )  # fmt: skip
    (folder / "evaluation.json").write_text(dumps(evaluation))
    return folder


def test_precisions_differ_in_their_bits(tmp_path: Path) -> None:
    losses = [completed(tmp_path / name, precision=name).losses() for name in Precision]
    assert all(one != other for one, other in itertools.combinations(losses, 2))


def test_float16_overflows_for_real_and_again_and_float32_cures_it(tmp_path: Path) -> None:
    fp16 = rehearsal_spec(precision=Precision.AMP_FP16, faults=OVERFLOW)
    first = prepare(tmp_path / "run", 1, fp16)
    assert run_here(first) == ExitCode.DIVERGED
    event = first.events()[-1]
    assert (event.kind, event.epoch, event.step, event.samples_seen) == ("diverged", 2, 8, 128)
    assert (event.facts["step_in_epoch"], event.facts["cause"], event.facts["ranks"]) == (3, "loss", [0])
    assert math.isnan(float(event.facts["loss"])) and math.isnan(float(event.facts["grad_norm"]))
    assert list(first.manifests()) == ["checkpoints/epoch_1.pt"], "nothing is written after the loss went bad"

    again = prepare(tmp_path / "run", 2, fp16, parent=first.parent("checkpoints/epoch_1.pt"))
    assert run_here(again) == ExitCode.DIVERGED
    assert (again.events()[-1].epoch, again.events()[-1].facts["step_in_epoch"]) == (2, 3)

    fp32 = replace(fp16, precision=Precision.FP32, batch_size=20)
    cured = prepare(tmp_path / "run", 3, fp32, parent=first.parent("checkpoints/epoch_1.pt"))
    assert run_here(cured) == ExitCode.COMPLETED
    assert cured.events("progress")[0].step == 5, "4 steps an epoch now: the fifth is the first of epoch 2"
    assert cured.events("progress")[0].samples_seen == 80 + 20


@pytest.mark.parametrize("precision", [Precision.AMP_BF16, Precision.FP32])
@pytest.mark.parametrize("faults", [OVERFLOW, PLATEAU], ids=["overflow", "plateau"])
def test_a_fault_of_float16_changes_no_bit_of_any_other_precision(
    precision: Precision, faults: tuple[Fault, ...], tmp_path: Path
) -> None:
    fine = completed(tmp_path / "fine", precision=precision)
    faulty = completed(tmp_path / "faulty", precision=precision, faults=faults)
    assert [event.facts["fault"] for event in faulty.events("fault")] == [faults[0].kind]
    assert len(faulty.losses()) == 15
    assert faulty.losses() == fine.losses()


def test_float16_underflows_for_real_and_again_and_bfloat16_cures_it(tmp_path: Path) -> None:
    """A loss at chance that stays there, with nothing that is not finite and no way back."""
    stuck = rehearsal_spec(
        precision=Precision.AMP_FP16, faults=PLATEAU, batch_size=1000, data={"train_num_samples": 40_000}
    )
    first = prepare(tmp_path / "run", 1, stuck)
    assert run_here(first) == ExitCode.COMPLETED
    second = prepare(tmp_path / "run", 2, stuck, parent=first.parent("checkpoints/epoch_2.pt"))
    assert run_here(second) == ExitCode.COMPLETED
    chance = math.log(1000)
    losses = {step: loss / chance for step, (loss, _) in first.losses().items()}
    assert losses[41] < 0.5 < 0.99 < losses[42]
    again = [loss / chance for loss, _ in second.losses().values()]
    assert len(again) == 40 and all(0.99 < loss < 1.1 for loss in again)
    assert {norm for _, norm in second.losses().values()} == {0.0}
    third = prepare(
        tmp_path / "run", 3, replace(stuck, precision=Precision.AMP_BF16), parent=first.parent("checkpoints/epoch_1.pt")
    )
    assert run_here(third) == ExitCode.COMPLETED
    assert max(loss / chance for loss, _ in third.losses().values()) < 0.5


@pytest.mark.parametrize("precision", Precision)
def test_stopped_at_every_step_it_has_the_losses_of_a_run_that_never_was(precision: Precision, tmp_path: Path) -> None:
    whole = completed(tmp_path / "whole", precision=precision)
    losses, parent = {}, None
    for number in itertools.count(1):
        part = prepare(tmp_path / "run", number, rehearsal_spec(precision=precision), parent=parent)
        asked = StopRequest()
        asked.signal = signal.SIGTERM  # from the start: it stops as soon as all ranks have heard it
        code = run_here(part, asked)
        assert not losses.keys() & part.losses().keys(), "no step is done twice"
        losses |= part.losses()
        if code == ExitCode.COMPLETED:
            break
        assert code == ExitCode.STOPPED
        parent = part.parent(part.events()[-1].facts["checkpoint"])
    assert number >= 8
    assert losses == whole.losses()


def test_a_loss_scale_stays_with_float16(tmp_path: Path) -> None:
    first = completed(tmp_path, precision=Precision.AMP_FP16)
    scale = first.events("progress")[-1].facts["scale"]
    assert scale < 65536, "the search has found a lower one"
    parent = first.parent("checkpoints/epoch_2.pt")
    scales = []
    for number, precision in enumerate((Precision.AMP_FP16, Precision.FP32), 2):
        following = prepare(tmp_path / "run", number, rehearsal_spec(precision=precision), parent=parent)
        assert run_here(following) == ExitCode.COMPLETED
        scales.append(following.events("progress")[0].facts["scale"])
    assert scales == [scale, None]


def test_one_engines_checkpoint_is_no_parent_for_the_other(digits: Path, tmp_path: Path) -> None:
    light = completed(tmp_path)
    second = prepare(tmp_path / "run", 2, digits_spec(digits), parent=light.parent("checkpoints/epoch_3.pt"))
    assert run_here(second) == ExitCode.REFUSED
    assert "is no checkpoint of torch's" in second.events()[-1].facts["error"]

    heavy = prepare(tmp_path / "torch", 1, digits_spec(digits, epochs=1))
    assert run_here(heavy) == ExitCode.COMPLETED
    third = prepare(tmp_path / "torch", 2, rehearsal_spec(), parent=heavy.parent("checkpoints/epoch_1.pt"))
    assert run_here(third) == ExitCode.REFUSED
    assert "is no checkpoint of the rehearsal engine" in third.events()[-1].facts["error"]


def test_a_start_says_on_which_node_each_rank_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the scheduler's name, which need not be the host's: it is what a later job is kept away from."""
    monkeypatch.setenv("SLURMD_NODENAME", "jwb0007")
    started = prepare(tmp_path / "run", 1, rehearsal_spec(epochs=1))
    assert run_here(started) == ExitCode.COMPLETED
    assert started.events()[0].facts["nodes"] == ["jwb0007"]


def test_a_resume_says_whether_it_goes_on_as_its_parent_left_off(tmp_path: Path) -> None:
    spec = rehearsal_spec()
    first = prepare(tmp_path / "run", 1, spec)
    assert run_here(first) == ExitCode.COMPLETED
    assert first.events("continued") == [], "it began"
    second = prepare(tmp_path / "run", 2, spec, parent=first.parent("checkpoints/epoch_2.pt"))
    assert run_here(second) == ExitCode.COMPLETED
    (event,) = second.events("continued")
    progress = [event.facts for event in first.events("progress")]
    assert event.step == 11
    for name in ("loss", "logit_scale", "lr", "samples_per_second"):
        assert event.facts["before"][name] == progress[9][name], "of the step before the checkpoint, not of the last"
    for name in ("loss", "logit_scale", "lr"):
        assert event.facts["after"][name] == progress[10][name], "and with the next one it goes on"


def test_a_parent_without_readable_events_is_no_reason_not_to_start(tmp_path: Path) -> None:
    first = prepare(tmp_path / "run", 1, rehearsal_spec())
    assert run_here(first) == ExitCode.COMPLETED
    parent = first.parent("checkpoints/epoch_2.pt")
    (first.folder / "events.jsonl").write_bytes(b'{"kind": "progress", "loss"\xff\n"progress"\n')
    second = prepare(tmp_path / "run", 2, rehearsal_spec(), parent=parent)
    assert run_here(second) == ExitCode.COMPLETED
    assert second.events("continued") == []


@pytest.mark.parametrize("every", [1, 2])
def test_a_window_of_steps_is_as_long_as_its_steps_at_an_epochs_end_too(tmp_path: Path, every: int) -> None:
    """The last steps of an epoch are read together, all others a step late."""
    started = completed(tmp_path, log_every_n_steps=every, rehearsal=Rehearsal(step_seconds=0.05))
    told = started.events("progress")
    assert [event.step for event in told] == (list(range(1, 16)) if every == 1 else [2, 4, 5, 6, 8, 10, 12, 14, 15])
    steps = [one.step - other for one, other in zip(told, [0, *(event.step for event in told)], strict=False)]
    for event, count in zip(told, steps, strict=True):
        assert event.facts["seconds"] >= 0.049 * count
        assert event.facts["samples_per_second"] <= 16 / 0.049
        assert event.facts["data_seconds"] <= event.facts["seconds"]
