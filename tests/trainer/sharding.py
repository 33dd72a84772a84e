"""Sharded trainees beside data-parallel ones: the same weights, the same batches, one process a rank.

`python -m tests.trainer.sharding FOLDER` leaves what rank 0 saw in FOLDER/found.pt.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, multiprocessing
from torch.distributed.tensor import DTensor

from tests.trainer.parity import CPU, MODELS, ROOT, Case, Recorded, recorded
from trainer.clip import ClipTrainee, loss_of
from trainer.compose import Batch
from trainer.contract import Loss, Parallel, Precision, TrainSpec
from trainer.loop import Said
from trainer.place import RENDEZVOUS_VARIABLE, Place
from trainer.position import Position
from trainer.ranks import TorchRanks
from trainer.schedule import Geometry
from trainer.sharded import ShardedTrainee

STEPS, LR, MODEL = 8, 1e-3, "ViT-small-32"
KINDS = {Parallel.DDP: ClipTrainee, Parallel.FSDP: ShardedTrainee}


@dataclass(frozen=True)
class Setting:
    precision: Precision
    accum_freq: int = 1
    grad_clip_norm: float | None = None
    grad_checkpointing: bool = False
    siglip: bool = False
    ranks: int = 2

    @property
    def case(self) -> Case:
        return Case(MODEL, self.precision, self.ranks, STEPS, self.accum_freq)

    def spec(self, parallel: Parallel) -> TrainSpec:
        spec = self.case.spec()
        return replace(
            spec,
            parallel=parallel,
            ddp_static_graph=False,
            optim=replace(spec.optim, grad_clip_norm=self.grad_clip_norm),
            loss=Loss(siglip=True) if self.siglip else spec.loss,
        )


SETTINGS = (
    *(Setting(precision, accum) for precision in Precision for accum in (1, 2)),
    Setting(Precision.FP32, grad_clip_norm=0.5),
    Setting(Precision.AMP_BF16, grad_checkpointing=True),
    Setting(Precision.FP32, 2, siglip=True),
    Setting(Precision.FP32, grad_clip_norm=0.5, ranks=3),  # no dimension can be divided by three
)


class Training:
    """One trainee, step by step. What is not finite is rank 1's alone."""

    def __init__(self, setting: Setting, parallel: Parallel, ranks: TorchRanks) -> None:
        self.setting, self.ranks, self.spec = setting, ranks, setting.spec(parallel)
        torch.manual_seed(0)
        model = open_clip.create_model(MODEL, init_logit_bias=-10.0 if setting.siglip else None)
        if setting.grad_checkpointing:
            model.set_grad_checkpointing()
        loss = loss_of(self.spec.loss, model, ranks.rank, ranks.count)
        self.trainee = KINDS[parallel](self.spec, model, loss, CPU, ranks.rank, ranks.count)
        self.at = Position(Geometry.of(self.spec, ranks.count))

    def batches(self) -> Iterator[Batch]:
        return Recorded(recorded(self.setting.case, self.ranks.rank), self.setting.accum_freq).batches(1, 0)

    def step(self, batch: Batch) -> list[float]:
        """This rank's row."""
        row = self.trainee.forward_backward(batch, self.at)
        self.trainee.update(self.ranks.agree(row, Said(0, 0, len(batch.images), 0.0)), LR)
        self.at = self.at.after_step()
        told: list[float] = row.tolist()
        return told

    def state(self) -> dict[str, Any]:
        """Rank 0's; as the loop's keepers do it."""
        if self.ranks.rank == 0 or self.spec.parallel is Parallel.DDP:
            return copied(self.trainee.state())
        self.trainee.contribute()
        return {}


def copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """Not the buffers that the next one takes."""
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    return state.clone() if isinstance(state, Tensor) else state


@dataclass(frozen=True)
class Found:
    """Rank 0's; `rows` by step. `went_on`: after half of the steps with the other's state, which each has loaded."""

    rows: dict[Parallel, list[list[float]]]
    states: dict[Parallel, dict[str, Any]]
    went_on: dict[Parallel, dict[str, Any]]
    held: float  # the part of all weights that this rank holds


def compare(setting: Setting, ranks: TorchRanks) -> Found:
    rows, states, halves, went_on, held = {}, {}, {}, {}, 0.0
    for parallel in Parallel:
        training, told = Training(setting, parallel, ranks), []
        for number, batch in enumerate(training.batches()):
            if number == STEPS // 2:
                halves[parallel] = ranks.gather(training.state())[0]
            told.append(training.step(batch))
        rows[parallel], states[parallel] = told, training.state()
        held = share_of(training.trainee)
    for parallel, other in zip(Parallel, reversed(Parallel), strict=True):
        training = Training(setting, parallel, ranks)
        assert training.trainee.misfit(halves[other]) == ""
        assert training.trainee.load(halves[other]) == ()
        for number, batch in enumerate(training.batches()):
            if number >= STEPS // 2:
                training.step(batch)
        went_on[parallel] = training.state()
    return Found(rows, states, went_on, held)


def share_of(trainee: ClipTrainee) -> float:
    parameters = list(trainee.model.parameters())
    own = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in parameters]
    return sum(tensor.numel() for tensor in own) / sum(tensor.numel() for tensor in parameters)


@dataclass(frozen=True)
class Poisoned:
    """States after a good step, after one that was not finite on rank 1 alone, and after another good one."""

    before: dict[str, Any]
    after: dict[str, Any]
    later: dict[str, Any]


def poison(precision: Precision, ranks: TorchRanks) -> Poisoned:
    training = Training(Setting(precision), Parallel.FSDP, ranks)
    batches, states = training.batches(), []
    for bad in (False, True, False):
        batch = next(batches)
        if bad and ranks.rank == 1:
            batch = replace(batch, images=batch.images * torch.nan)
        training.step(batch)
        states.append(training.state())
    return Poisoned(*states)


def find(folder: Path) -> tuple[dict[Setting, Found], dict[Precision, Poisoned]]:
    subprocess.run([sys.executable, "-m", "tests.trainer.sharding", str(folder)], cwd=ROOT, check=True)
    found, poisoned = {}, {}
    for count in (2, 3):
        ours, bad = torch.load(folder / f"found{count}.pt", weights_only=False)
        found |= ours
        poisoned |= bad
    return found, poisoned


def main(folder: Path) -> None:
    for count in (2, 3):
        os.environ[RENDEZVOUS_VARIABLE] = str(folder / f"meet{count}")
        multiprocessing.start_processes(_rank, (count, folder), nprocs=count, start_method="fork")


def _rank(rank: int, count: int, folder: Path) -> None:
    open_clip.add_model_config(MODELS)
    ranks = TorchRanks(Place(rank, count, rank), CPU)
    found = {setting: compare(setting, ranks) for setting in SETTINGS if setting.ranks == count}
    poisoned = {precision: poison(precision, ranks) for precision in Precision if count == 2}
    if rank == 0:
        torch.save((found, poisoned), folder / f"found{count}.pt")
    ranks.close()


if __name__ == "__main__":
    from tests.trainer import sharding  # what is saved must not be known as __main__'s

    sharding.main(Path(sys.argv[1]))
