"""`engine: rehearsal`: real loop, ranks, float16 and checkpoints, around a model that costs nothing.

Of the TrainSpec it does without `model` and what modifies it (`force_...`, `blocks`, `grad_checkpointing`), `tf32`,
`load_what_fits`, `ddp_static_graph`, `loss`, the data's files and the zero-shot set: pairs are made up, and an
evaluation asks which of the held-out texts is the nearest to each held-out image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy: a thread a core, in each of 384 ranks, would only spin

from trainer.contract import TrainSpec
from trainer.meeting import meet
from trainer.place import Place
from trainer.position import Position
from trainer.rehearsal.files import read, write
from trainer.rehearsal.pairs import PairSource, World
from trainer.rehearsal.ranks import StarRanks
from trainer.rehearsal.trainee import RehearsalTrainee
from trainer.schedule import Geometry

__all__ = ["equip", "open_charts", "read", "write"]

open_charts = None  # TensorBoard's writer is torch's
HELD_OUT = 50  # pairs
TOP = 5


def equip(spec: TrainSpec, where: Place) -> RehearsalEquipment:
    return RehearsalEquipment(spec, where)


class RehearsalEquipment:
    device = "cpu"
    versions: Mapping[str, str] = {}

    def __init__(self, spec: TrainSpec, where: Place) -> None:
        self.spec = spec
        self.ranks = StarRanks(where, meet(where, os.environ))

    def load(self, state: Mapping[str, Any] | None) -> tuple[str, ...]:
        self.trainee = RehearsalTrainee(self.spec, Geometry.of(self.spec, self.ranks.count))
        if state is not None:
            self.trainee.load(state)
        return ()

    def source(self, at: Position) -> PairSource:
        return PairSource(self.spec, self.ranks.rank, at)

    def evaluate(self) -> Mapping[str, Any]:
        """On every rank, with the same result: it takes less time than to tell it."""
        images, texts = self.trainee.features(World(self.spec.seed).pairs(HELD_OUT, "held-out"))
        likeness = images @ texts.T
        place = (~(likeness < likeness.diagonal()[:, None])).sum(axis=1)  # from 1; the last one where it is not finite
        return {"top1": float((place == 1).mean()), "top5": float((place <= TOP).mean()), "samples": HELD_OUT}
