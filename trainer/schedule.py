"""Pure arithmetic of a run: steps per epoch, learning rate, where a sample count lies, in steps and samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from trainer.contract import DatasetType, Optim, Schedule, TrainSpec


@dataclass(frozen=True)
class Geometry:
    """What fixes the length of an epoch, rounded up as in open_clip: every worker of every rank gives whole batches."""

    train_num_samples: int
    batch_size: int  # samples a rank and step: TrainSpec's batch_size x accum_freq
    ranks: int
    workers: int  # a rank; 0 counts as one

    @classmethod
    def of(cls, train: TrainSpec, ranks: int) -> Geometry:
        return cls(train.data.train_num_samples, train.batch_size * train.accum_freq, ranks, train.data.workers)

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.ranks

    @cached_property
    def steps_per_epoch(self) -> int:
        workers = max(1, self.workers)
        batches = math.ceil(self.train_num_samples / self.global_batch)
        return math.ceil(batches / workers) * workers

    @property
    def samples_per_epoch(self) -> int:
        return self.steps_per_epoch * self.global_batch

    def steps_for(self, samples_in_epoch: int) -> int:
        """What `samples_in_epoch` are worth, rounded down: no sample of the epoch is left out."""
        return min(samples_in_epoch // self.global_batch, self.steps_per_epoch - 1)


def open_clip_steps(train: TrainSpec, ranks: int) -> int:
    """Of an epoch, as open_clip_train counts them (data.py, train.py): batches are rounded first, then put together."""
    workers, samples = max(1, train.data.workers), train.data.train_num_samples
    if train.data.dataset_type is DatasetType.SYNTHETIC:  # a rank's part in whole batches
        batches = math.ceil(samples / ranks) // train.batch_size
    else:
        batches = math.ceil(math.ceil(samples / (train.batch_size * ranks)) / workers) * workers
    return batches // train.accum_freq


def learning_rate(optim: Optim, step: int, *, epochs: int, steps_per_epoch: int) -> float:
    """For the step after `step` finished ones: open_clip's linear warm-up, then what `lr_scheduler` says."""
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    total = epochs * steps_per_epoch
    if optim.lr_scheduler is Schedule.COSINE:
        return 0.5 * (1 + math.cos(math.pi * (step - optim.warmup) / (total - optim.warmup))) * optim.lr
    cooldown = (optim.epochs_cooldown or 0) * steps_per_epoch
    if step < total - cooldown:  # always, for a constant one
        return optim.lr
    left = math.pow((total - step) / cooldown, optim.lr_cooldown_power)
    return left * (optim.lr - optim.lr_cooldown_end) + optim.lr_cooldown_end
