"""A run of many troubles on a real Slurm, launched by a person and from then on looked after by the watchdog alone."""

from __future__ import annotations

import random

import pytest

from tests.story.plot import drawn
from tests.story.story import Story
from tests.story.watch import Watch

PATIENCE = 200.0  # seconds for each thing that befalls it
LONG = 900.0  # seconds; three minutes where nothing else runs, a third of it to import torch eight times
DIGITS = (
    "resources.nodes=2",
    "resources.ranks_per_node=2",
    "train.epochs=5",  # half of the demo's: no more are needed for its accuracy
    "train.data.workers=0",
    "train.zeroshot.frequency=5",
    "train.precision=amp_fp16",
    "precisions.amp_fp16.batch_size=16",
    "precisions.fp32.batch_size=24",  # 96 in all, as two ranks have in the demo
    "recovery.precision_ladder=[amp_fp16, fp32]",
    "train.save.save_frequency=1",
    "train.faults=[{kind: overflow, at_epoch: 3, at_step: 5}]",
)


@pytest.mark.timeout(900)
def test_the_cards_history_in_small_another_one_each_time(watch: Watch) -> None:
    """`python -m tests.story --seed N --nodes 4 --gpus 2 --epochs 45 --steps 4 --step-seconds 0.3` tells it again."""
    seed = random.SystemRandom().randrange(10**6)
    plot = drawn(seed, nodes=4, gpus=2, epochs=45, steps=4, step_seconds=0.3)
    print(plot)  # shown where it fails
    Story(watch, plot, PATIENCE).tell()


@pytest.mark.timeout(2 * LONG)
def test_the_demo_overflows_on_two_nodes_and_reads_digits_all_the_same(watch: Watch) -> None:
    """The real model, torch and gloo: the watchdog alone takes it from float16 to float32."""
    desk, watch.pace = watch.desk, 5.0  # the ranks need the processor
    sets = [item for text in DIGITS for item in ("--set", text)]
    said = desk.clipctl("launch", "demo", "--cluster", "emulated", "--name", "digits", "-y", *sets)
    assert said.code == 0, said.err
    run = watch.completes("digits", LONG)
    assert [(item["kind"], item["epoch"]) for item in run.incidents()] == [("diverged", 3)]
    parent, train = run.attempt(2)["parent"], run.attempt(2)["train"]
    assert (parent["path"], train["precision"]) == ("attempts/1/checkpoints/epoch_1.pt", "fp32")
    (evaluated,) = run.events(2, "evaluated")
    assert (evaluated["step"], evaluated["samples"]) == (5 * 40, 355)
    assert evaluated["top1"] >= 0.94
    assert desk.status("digits")["progress"]["samples_seen"] == 5 * 40 * 96
    assert desk.clipctl("checkpoints", "digits", "--verify").out.count("verified") == 5


def test_a_seed_draws_one_plot() -> None:
    """What a failure prints is enough to see it again."""
    first, again, other = (drawn(seed, nodes=4, gpus=2, epochs=20) for seed in (7, 7, 8))
    assert first == again != other
