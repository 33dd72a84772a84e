"""The card's restart by hand, at its full length: NaN in epoch 75 of 160, and from epoch 69 on in float32."""

from __future__ import annotations

import json
import math

import pytest

from tests.slurm.desk import SlurmDesk

EIGHT_RANKS = (
    "train.engine=rehearsal",
    "resources.nodes=2",
    "train.data.train_num_samples=10_000",
    "train.optim.warmup=24",
    "train.log_every_n_steps=1",
    "train.zeroshot=null",
    "train.faults=[{kind: overflow, at_epoch: 75, at_step: 2}]",
)
# On paper, each of six workers giving whole batches: 10,000 / (8 x 208) = 6.01 are 7 batches, so 12 steps an epoch;
# 10,000 / (8 x 224) = 5.58 are 6, so 6 steps. The warm-up of 24 steps is long over when 68 epochs are done.
STEPS_BEFORE, STEPS_AFTER = 12, 6
FIRST_RATE = 1e-3 * (1 + math.cos(math.pi * (68 * 6 - 24) / (160 * 6 - 24))) / 2


def test_an_overflow_in_epoch_75_is_trained_past_in_float32_from_epoch_69_on(desk: SlurmDesk) -> None:
    options = [item for text in EIGHT_RANKS for item in ("--set", text)]
    said = desk.clipctl("launch", "l14-laion2b", "--cluster", "emulated", "--name", "l14", "-y", *options)
    assert said.code == 0, said.err
    run = desk.ended("l14")
    assert (run["state"], run["last_incident"]["kind"], run["last_incident"]["epoch"]) == ("stopped", "diverged", 75)
    assert run["last_incident"]["step"] == 74 * STEPS_BEFORE + 2
    assert run["next"] == "clipctl resume l14 --epoch 69 --precision fp32"

    plan = desk.resumed("l14", "--epoch", "69", "--precision", "fp32").split("\n")
    values = {name: value for name, _, value in (line.strip().partition("  ") for line in plan)}
    assert values["from"].strip() == "attempts/1/checkpoints/epoch_68.pt (68 epochs done)"
    assert values["train.batch_size"] == "208 -> 224"
    assert values["steps an epoch"].strip() == f"{STEPS_BEFORE} -> {STEPS_AFTER}"
    assert values["LR"].strip() == f"{FIRST_RATE:.3e} at its first step, {68 * STEPS_AFTER + 1}"
    run = desk.ended("l14")
    assert (run["state"], run["precision"], run["batch_size"]) == ("completed", "fp32", 224)
    _check_attempt(desk)
    _check_lineage(desk)


def _check_attempt(desk: SlurmDesk) -> None:
    """Samples go on where they were; steps are counted in the new length of an epoch."""
    (started,) = desk.events("l14", 2, "started")
    seen = 68 * STEPS_BEFORE * 8 * 208
    assert (started["step"], started["samples_seen"]) == (68 * STEPS_AFTER, seen)
    first, *_, last = desk.events("l14", 2, "progress")
    assert (first["epoch"], first["step"]) == (69, 68 * STEPS_AFTER + 1)
    assert first["lr"] == pytest.approx(FIRST_RATE, rel=1e-9)
    assert (last["epoch"], last["step"]) == (160, 160 * STEPS_AFTER)
    assert last["samples_seen"] == seen + 92 * STEPS_AFTER * 8 * 224


def _check_lineage(desk: SlurmDesk) -> None:
    first, second = json.loads(desk.clipctl("show", "l14", "--json").out)["lineage"]
    assert (first["precision"], first["batch_size"], first["incident"]["form"]) == ("amp_fp16", 208, "nan")
    assert (second["parent_attempt"], second["parent_path"]) == (1, "attempts/1/checkpoints/epoch_68.pt")
    changes = {change["path"]: (change["before"], change["after"]) for change in second["changes"]}
    assert changes == {"batch_size": (208, 224), "precision": ("amp_fp16", "fp32")}
    assert (second["incident"], second["final"]) == (None, "completed")
