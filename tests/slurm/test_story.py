"""A run of many troubles on a real Slurm, launched by a person and from then on looked after by the watchdog alone."""

from __future__ import annotations

import random

import pytest

from tests.slurm.desk import SlurmDesk
from tests.story.plot import drawn
from tests.story.story import Story
from tests.story.watch import watching

PATIENCE = 150.0  # seconds for each thing that befalls it


@pytest.mark.timeout(600)
def test_the_cards_history_in_small_another_one_each_time(desk: SlurmDesk, record_property: object) -> None:
    """`python -m tests.story --seed N` with this size tells the same again."""
    seed = random.SystemRandom().randrange(10**6)
    plot = drawn(seed, nodes=4, gpus=2, epochs=20, steps=4, step_seconds=0.3)
    print(plot)  # shown where it fails
    with watching(desk) as watch:
        Story(watch, plot, PATIENCE).tell()
