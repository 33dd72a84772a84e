"""Processes that save checkpoints and are killed in it: `python -m tests.trainer.savers ATTEMPT_FOLDER COUNT`."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from trainer import torch_engine
from trainer.checkpoints import CheckpointKeeper
from trainer.contract import Attempt, Data, Precision, Save, TrainSpec
from trainer.loop import Trainee
from trainer.position import Position
from trainer.recorder import Silent
from trainer.schedule import Geometry

TRAIN = TrainSpec(
    model="none",
    data=Data(train_data="/none.tar", train_num_samples=10**9, workers=0),
    epochs=10**6,
    batch_size=1,
    precision=Precision.FP32,
    save=Save(steps=1),
)


class Weights(Trainee):
    """Two megabytes, other ones at each step: writing them takes about as long as making them durable."""

    def reserve(self) -> Callable[[], None]:
        return lambda: None

    def state(self) -> dict[str, Any]:
        return {"state_dict": {"module.w": torch.rand(500_000)}}

    def is_finite(self, state: Mapping[str, Any]) -> bool:
        return True


def save_for_ever(folder: Path, first: int) -> None:
    keeper = CheckpointKeeper(
        Attempt(run="r", number=1, ranks=1, train=TRAIN), folder, Weights(), Silent(), lambda: True, torch_engine.write
    )
    at = Position(Geometry.of(TRAIN, 1), step_in_epoch=first, samples_seen=first)
    while True:
        at = at.after_step()
        keeper.save(at, 1.0)


def main(folder: Path, count: int) -> None:
    """Each is killed at any moment of the two saves that follow its first, however long one takes here."""
    draw = random.Random(5)
    torch.rand(1)
    for number in range(count):
        child = os.fork()
        if not child:
            save_for_ever(folder, 1000 * number)
        began = time.monotonic()
        while not (folder / f"steps/step_{1000 * number + 1}.pt.json").exists():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 2 * (time.monotonic() - began)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
