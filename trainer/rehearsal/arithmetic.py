"""In what a precision computes: how numbers are rounded, and whether the loss is scaled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.contract import Precision
from trainer.rehearsal.ranks import Agreed

Array = NDArray[Any]


class LossScale(Protocol):
    scale: float  # of the loss; 1.0 where there is none

    @property
    def told(self) -> float:
        """As in a row: 0.0 where there is none."""

    def admits(self, agreed: Agreed) -> bool:
        """May the weights be changed by this step? Asked once a step."""

    def state(self) -> dict[str, float]: ...
    def load(self, state: Mapping[str, float]) -> None: ...


class Searched:
    """torch's GradScaler: gradients that are not finite are skipped and halve the scale, many good steps double it."""

    INITIAL, GROWTH_INTERVAL = 65536.0, 2000

    def __init__(self) -> None:
        self.scale, self.good_steps = self.INITIAL, 0

    @property
    def told(self) -> float:
        return self.scale

    def admits(self, agreed: Agreed) -> bool:
        finite = math.isfinite(agreed.grad_norm)
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.good_steps == self.GROWTH_INTERVAL:
            self.scale, self.good_steps = self.scale * 2, 0
        return finite

    def state(self) -> dict[str, float]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load(self, state: Mapping[str, float]) -> None:
        self.scale, self.good_steps = float(state["scale"]), int(state["good_steps"])


class Unscaled:
    """From the first step that is not finite, no update reaches the weights."""

    scale, told = 1.0, 0.0

    def __init__(self) -> None:
        self._alive = True

    def admits(self, agreed: Agreed) -> bool:
        self._alive = self._alive and agreed.all_finite()
        return self._alive

    def state(self) -> dict[str, float]:
        return {}

    def load(self, state: Mapping[str, float]) -> None:
        """Of another precision's, or none."""


@dataclass(frozen=True)
class Arithmetic:
    """`rounded`: what a product of matrices gives; weights and everything between two products stay float32."""

    rounded: Callable[[Array], Array]
    loss_scale: Callable[[], LossScale]


def _half(x: Array) -> Array:
    return x.astype(np.float16)


def _single(x: Array) -> Array:
    return x.astype(np.float32, copy=False)


def _brain(x: Array) -> Array:
    """bfloat16, which numpy lacks: float32 with 8 bits of mantissa, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    kept = (bits + (0x7FFF + (bits >> 16 & 1))) & 0xFFFF0000
    return np.where(np.isnan(x), x, kept.astype(np.uint32).view(np.float32))


ARITHMETICS = {
    Precision.AMP_FP16: Arithmetic(_half, Searched),
    Precision.AMP_BF16: Arithmetic(_brain, Unscaled),
    Precision.FP32: Arithmetic(_single, Unscaled),
}
