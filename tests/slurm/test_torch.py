"""The real model, torch and gloo on a real Slurm: what the rehearsal engine stands in for in every other test here."""

from __future__ import annotations

import pytest

from tests.slurm.desk import SlurmDesk

LONG = 900.0  # seconds; two minutes where nothing else runs, a third of it to import torch four times
TWO_NODES = (
    "resources.nodes=2",
    "resources.ranks_per_node=2",
    "train.batch_size=24",  # 96 in all, as two ranks have in the demo
    "train.epochs=5",  # half of the demo's: no more are needed for its accuracy
    "train.data.workers=0",
    "train.save.save_frequency=5",
    "train.zeroshot.frequency=5",
)


@pytest.mark.timeout(2 * LONG)
def test_four_ranks_on_two_nodes_learn_to_read_digits(desk: SlurmDesk) -> None:
    options = [item for text in TWO_NODES for item in ("--set", text)]
    said = desk.clipctl("launch", "demo", "--cluster", "emulated", "--name", "digits", "-y", *options)
    assert said.code == 0, said.err
    run = desk.ended("digits", patience=LONG)
    assert (run["state"], run["ranks"], run["faults"]) == ("completed", 4, []), desk.log("digits")
    assert run["progress"]["samples_seen"] == 5 * 40 * 96
    (evaluated,) = desk.events("digits", kind="evaluated")
    assert (evaluated["step"], evaluated["samples"]) == (5 * 40, 355)
    assert evaluated["top1"] >= 0.94
    assert desk.clipctl("checkpoints", "digits", "--verify").out.count("verified") == 1
