"""Synthetic image-text pairs: pure functions of their place, so there is nothing to read and nothing to remember."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trainer.contract import TrainSpec
from trainer.position import Position

Floats = NDArray[np.float32]

PAIRS = 8  # that a rank computes a step, whatever its batch size
SIZE, MEANING = 12, 4  # numbers of an image or a text, and of what the two have in common
NOISE = np.float32(0.1)


@dataclass(frozen=True)
class Batch:
    pairs: Floats  # [2, n, SIZE]: images, and their texts
    seen: int
    bad: Mapping[str, int] = field(default_factory=dict)


def uniform(shape: tuple[int, ...], *place: int | str) -> Floats:
    """Numbers of [-1, 1), the same wherever the same place is named. To import numpy's generators takes longer."""
    text = "/".join(map(str, place)).encode()
    raw = hashlib.shake_128(text).digest(2 * math.prod(shape))
    return (np.frombuffer(raw, "<i2").astype(np.float32) / np.float32(2**15)).reshape(shape)


class World:
    """What `seed` makes images and texts look like."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._looks = uniform((2, MEANING, SIZE), seed, "looks")

    def pairs(self, count: int, *place: int | str) -> Floats:
        """[2, count, SIZE]: noisy views of as many meanings."""
        drawn = uniform((count, MEANING + 2 * SIZE), self._seed, *place)
        meanings, noise = drawn[:, :MEANING], drawn[:, MEANING:].reshape(count, 2, SIZE)
        views: Floats = meanings @ self._looks + NOISE * noise.transpose(1, 0, 2)
        return views


class PairSource:
    """The loop's `Source`. A batch counts as `batch_size` x `accum_freq` samples, of which PAIRS are computed."""

    def __init__(self, spec: TrainSpec, rank: int, at: Position) -> None:
        self._spec, self._rank = spec, rank
        self._steps, self._counted = at.geometry.steps_per_epoch, spec.batch_size * spec.accum_freq
        self._world = World(spec.seed)

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        for step in range(first_step, self._steps):
            yield Batch(self._world.pairs(PAIRS, epoch, step, self._rank), seen=self._counted)

    def close(self) -> None:
        """No process reads ahead."""
