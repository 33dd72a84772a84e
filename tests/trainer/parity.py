"""open_clip_train's own training loop, unchanged, beside ours: the same weights, the same batches, one process a rank.

`python -m tests.trainer.parity FOLDER` runs the cases of FOLDER/cases.pt with their ranks, one after the other, and
leaves what rank 0 saw in FOLDER/trials.pt.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from open_clip_train.data import DataInfo
from open_clip_train.params import parse_args
from open_clip_train.scheduler import cosine_lr
from open_clip_train.train import train_one_epoch
from torch import Tensor, multiprocessing, nn

from trainer.checkpoints import NoKeeper
from trainer.clip import ClipTrainee, contrastive_loss
from trainer.compose import Batch
from trainer.contract import Data, Loss, Optim, Precision, TrainSpec
from trainer.faults import Faults
from trainer.loop import Loop, Parts
from trainer.place import RENDEZVOUS_VARIABLE, Place
from trainer.position import Position
from trainer.ranks import TorchRanks
from trainer.recorder import FileRecorder, Silent
from trainer.schedule import Geometry
from trainer.signals import StopRequest
from trainer.stacks import Stacks

MODELS, ROOT = Path(__file__).parent / "models", Path(__file__).parents[2]
CPU = torch.device("cpu")
BATCH, CONCEPTS, CONTEXT, VOCABULARY = 8, 96, 8, 256
NOISE = 1.5  # of an image, whose concept has deviation 1: enough that the loss stays far from 0
LR, WARMUP = 1e-3, 5
# What open_clip_train takes for a model of this name when it is told nothing.
OPTIM = {
    "ViT-small-32": Optim(lr=LR, warmup=WARMUP, beta2=0.98, eps=1e-6),
    "RN-small": Optim(lr=LR, warmup=WARMUP, beta2=0.999, eps=1e-8),
}


class Mode(StrEnum):
    """Of ours."""

    PARITY = "parity"  # open_clip's arithmetic, operation by operation
    FAST = "fast"  # as ours trains: fused AdamW, texts without their padding


@dataclass(frozen=True)
class Case:
    model: str
    precision: Precision
    ranks: int
    steps: int
    accum_freq: int = 1
    modes: tuple[Mode, ...] = tuple(Mode)
    logit_scale: float = 1 / 0.07  # at the start; open_clip's

    def __str__(self) -> str:
        return f"{self.model}, {self.precision}, {self.ranks} rank{'s'[: self.ranks > 1]}, accum_freq {self.accum_freq}"

    @property
    def samples(self) -> int:
        return self.steps * BATCH * self.accum_freq * self.ranks

    def spec(self) -> TrainSpec:
        return TrainSpec(
            model=self.model,
            data=Data(train_data="/recorded.tar", train_num_samples=self.samples, workers=0),
            epochs=1,
            batch_size=BATCH,
            accum_freq=self.accum_freq,
            precision=self.precision,
            optim=OPTIM[self.model],
            loss=Loss(local_loss=True, gather_with_grad=True),
            ddp_static_graph=True,
            log_every_n_steps=1,
        )


@dataclass(frozen=True)
class Trained:
    """By step: this rank's loss, logit scale and LR; and the weights at the end. Curves are rank 0's alone."""

    loss: list[float]
    logit_scale: list[float]
    lr: list[float]
    weights: dict[str, Tensor]


def recorded(case: Case, rank: int) -> list[tuple[Tensor, Tensor]]:
    """Images [B, 3, 32, 32], texts [B, context] of each forward pass: noisy views of concepts, none twice in one."""
    world = torch.Generator().manual_seed(0)
    looks = torch.randn(CONCEPTS, 3, 32, 32, generator=world)
    names = torch.randint(1, VOCABULARY, (CONCEPTS, CONTEXT), generator=world)
    batches = []
    for number in range(case.steps * case.accum_freq):
        draw = torch.Generator().manual_seed(1 + number)
        mine = torch.randperm(CONCEPTS, generator=draw)[rank * BATCH : (rank + 1) * BATCH]
        draw.manual_seed(1 + number + (1 + rank) * 10**6)
        batches.append((looks[mine] + NOISE * torch.randn(BATCH, 3, 32, 32, generator=draw), names[mine]))
    return batches


@dataclass(frozen=True)
class Trial:
    theirs: Trained
    ours: dict[Mode, Trained]


def trial(case: Case, ranks: TorchRanks, folder: Path) -> Trial:
    """`folder`: for our events."""
    open_clip.add_model_config(MODELS)
    theirs = _theirs(case, _first_model(case, output_dict=True), ranks)
    return Trial(theirs, {mode: _ours(case, mode, _first_model(case), ranks, folder / mode) for mode in case.modes})


def _first_model(case: Case, **options: bool) -> nn.Module:
    """The same weights each time, on every rank."""
    torch.manual_seed(0)
    model = open_clip.create_model(case.model, **options)
    nn.init.constant_(model.logit_scale, math.log(case.logit_scale))
    return model


# Theirs


@dataclass(frozen=True)
class Loader:
    """What open_clip's loop asks of a DataLoader."""

    batches: Sequence[tuple[Tensor, Tensor]]
    num_samples: int

    @property
    def num_batches(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)


class Scalars:
    """A SummaryWriter for open_clip's loop, which tells what it measured to nobody else."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert step == len(self.values.setdefault(name, []))
        self.values[name].append(value)


def _theirs(case: Case, model: nn.Module, ranks: TorchRanks) -> Trained:
    """Put together as its main does, but for DDP's device_ids: with them it cannot run on CPUs."""
    args = _arguments(case, ranks)
    # Each of the accumulated losses is the whole batch's, so the logit scale has its whole gradient from each of them.
    model.logit_scale.register_hook(lambda gradient: gradient / case.accum_freq)
    network = nn.parallel.DistributedDataParallel(model, static_graph=True) if args.distributed else model
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    exclude = {n for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n}
    groups = [
        {"params": [p for n, p in named if n in exclude], "weight_decay": 0.0},
        {"params": [p for n, p in named if n not in exclude], "weight_decay": args.wd},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(args.beta1, args.beta2), eps=args.eps)
    loader = Loader(recorded(case, ranks.rank), case.samples)
    scheduler = cosine_lr(optimizer, args.lr, args.warmup, loader.num_batches // args.accum_freq * args.epochs)
    data, seen = {"train": DataInfo(loader)}, Scalars()
    train_one_epoch(network, data, open_clip.create_loss(args), 0, optimizer, None, scheduler, None, args, seen)
    curves = (seen.values.get(f"train/{name}", []) for name in ("loss", "scale", "lr"))
    return Trained(*curves, weights=model.state_dict())


def _arguments(case: Case, ranks: TorchRanks) -> SimpleNamespace:
    """Its own parser's; the rest is what its main sets."""
    options = (
        f"--model {case.model} --device cpu --precision {case.precision} --batch-size {BATCH} --epochs 1 "
        f"--accum-freq {case.accum_freq} --lr {LR} --warmup {WARMUP} --local-loss --gather-with-grad"
        " --log-every-n-steps 1"
    )
    set_by_main = {
        "distributed": ranks.count > 1,
        "rank": ranks.rank,
        "local_rank": 0,
        "world_size": ranks.count,
        "distill": False,
        "wandb": False,
    }
    return SimpleNamespace(**vars(parse_args(options.split())) | set_by_main)


# Ours


@dataclass(frozen=True)
class Recorded:
    """The loop's `Source`."""

    recorded: Sequence[tuple[Tensor, Tensor]]
    accum_freq: int

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        for first in range(first_step, len(self.recorded), self.accum_freq):
            images, texts = map(torch.cat, zip(*self.recorded[first : first + self.accum_freq], strict=True))
            yield Batch(images, texts, {}, len(images))


class Witness(ClipTrainee):
    """Keeps this rank's own losses: open_clip tells only those of rank 0, events the mean of all."""

    def __init__(self, case: Case, mode: Mode, model: nn.Module, ranks: TorchRanks) -> None:
        loss = contrastive_loss(case.spec().loss, ranks.rank, ranks.count)
        super().__init__(case.spec(), model, loss, CPU, ranks.rank, ranks.count)
        self.losses: list[float] = []
        if mode is Mode.PARITY:
            self._optimizer = Unfused(self._optimizer)
            self._short_texts = False

    def forward_backward(self, batch: Batch, at: Position) -> Tensor:
        row = super().forward_backward(batch, at)
        self.losses.append(float(row[0]))
        return row


class Unfused(torch.optim.AdamW):
    """With the settings of another one. It has no use for `found_inf`, which only the fused kernel reads."""

    def __init__(self, other: torch.optim.Optimizer) -> None:
        super().__init__([group | {"fused": False} for group in other.param_groups])

    def step(self, closure: Any = None) -> Any:
        self.__dict__.pop("found_inf", None)
        return super().step(closure)


def _ours(case: Case, mode: Mode, model: nn.Module, ranks: TorchRanks, folder: Path) -> Trained:
    folder.mkdir(parents=True, exist_ok=True)
    trainee = Witness(case, mode, model, ranks)
    recorder, stacks = FileRecorder(folder) if ranks.rank == 0 else Silent(), Stacks(folder, ranks.rank)
    parts = Parts(
        spec=case.spec(),
        trainee=trainee,
        ranks=ranks,
        source=Recorded(recorded(case, ranks.rank), case.accum_freq),
        keeper=NoKeeper(),
        recorder=recorder,
        stop=StopRequest(),
        faults=Faults((), ranks.rank, folder),
        stacks=stacks,
        left_off={},
        evaluate=dict,
    )
    Loop(parts).run(Position(Geometry.of(case.spec(), ranks.count)))
    recorder.close()
    stacks.close()
    file = folder / "events.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()] if ranks.rank == 0 else []
    logit_scales, lrs = ([event[name] for event in events] for name in ("logit_scale", "lr"))
    return Trained(trainee.losses, logit_scales, lrs, model.state_dict())


# Several ranks


def trials(cases: Sequence[Case], folder: Path) -> list[Trial]:
    """Rank 0's. All cases in one set of processes, as many as each case has ranks: the imports cost twenty seconds.

    Not forked here: autograd may have run in this process, which no child of it survives.
    """
    torch.save(cases, folder / "cases.pt")
    subprocess.run([sys.executable, "-m", "tests.trainer.parity", str(folder)], cwd=ROOT, check=True)
    found: list[Trial] = torch.load(folder / "trials.pt", weights_only=False)
    return found


def main(folder: Path) -> None:
    cases = torch.load(folder / "cases.pt", weights_only=False)
    os.environ[RENDEZVOUS_VARIABLE] = str(folder / "meet")
    (count,) = {case.ranks for case in cases}
    multiprocessing.start_processes(_rank, (count, cases, folder), nprocs=count, start_method="fork")


def _rank(rank: int, count: int, cases: Sequence[Case], folder: Path) -> None:
    ranks = TorchRanks(Place(rank, count, rank), CPU)
    found = [trial(case, ranks, folder / str(number)) for number, case in enumerate(cases)]
    if rank == 0:
        torch.save(found, folder / "trials.pt")
    ranks.close()


if __name__ == "__main__":
    from tests.trainer import parity  # what is saved must not be known as __main__'s

    parity.main(Path(sys.argv[1]))
