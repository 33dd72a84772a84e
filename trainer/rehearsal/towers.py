"""Two towers of two layers, and the contrastive loss over them: forward, and backward by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.contract import FaultKind

Array = NDArray[Any]
Floats = NDArray[np.float32]
Rounded = Callable[[Array], Array]  # to what products of matrices are computed in

# What the image tower's output is multiplied by, twice, there and back. bfloat16 and float32 lose no bit by it. Float16
# has nothing above 65504, and ends in NaN; nor has it anything between 0 and 2^-24: where all images are zeros every
# text is as near as any other, and no gradient leads away from there.
FACTORS = {FaultKind.OVERFLOW: 2.0**12, FaultKind.PLATEAU: 2.0**-20}


class Towers:
    """Of images and of texts, side by side: tanh of one layer, then another, then scaled to length 1."""

    def __init__(self, hidden: Floats, out: Floats, rounded: Rounded) -> None:
        """`hidden` [2, in, width] and `out` [2, width, embedding]: float32 weights, read anew in each forward pass."""
        self._weights = hidden, out
        self._rounded = rounded
        self.factors: list[float] = []

    def forward(self, x: Floats) -> Floats:
        """[2, n, in] -> features [2, n, embedding]. Keeps what `backward` needs."""
        rounded = self._rounded
        self._x = rounded(x)
        hidden, self._out = (rounded(weights) for weights in self._weights)
        self._h = rounded(np.tanh(rounded(self._x @ hidden)))
        y = rounded(self._h @ self._out)
        for factor in self.factors:
            y[0] = y[0] * factor * factor / factor / factor
        wide: Floats = y.astype(np.float32)
        self._length: Floats = np.sqrt(np.square(wide).sum(axis=2, keepdims=True))
        self._length[self._length == 0] = np.inf  # zeros have no direction: they stay zeros
        features: Floats = wide / self._length
        self._features = features
        return features

    def backward(self, d_features: Floats) -> tuple[Array, Array]:
        """Gradients of `hidden` and `out`."""
        rounded = self._rounded
        along = (d_features * self._features).sum(axis=2, keepdims=True)
        dy = rounded((d_features - self._features * along) / self._length)
        dh = rounded(dy @ _turned(self._out)) * (1 - self._h * self._h)
        return rounded(_turned(self._x) @ rounded(dh)), rounded(_turned(self._h) @ dy)


class Contrast:
    """open_clip's loss over `pairs` images and texts, as a sample of the `batch` pairs of all ranks.

    Each negative stands for (batch - 1) / (pairs - 1) of them: without any knowledge the loss is ln(batch).
    """

    def __init__(self, pairs: int, batch: int, rounded: Rounded) -> None:
        weight = (batch - 1) / (pairs - 1)
        negative = math.log(weight) if weight else -math.inf
        self._own = np.arange(pairs)
        self._same = np.eye(pairs, dtype=np.float32)
        self._bias = np.where(self._same, np.float32(0), np.float32(negative))
        self._rounded = rounded

    def forward(self, features: Floats, scale: float) -> float:
        """Of [2, pairs, embedding]. `scale`: what their likeness is multiplied by."""
        self._features, self._scale = self._rounded(features), np.float32(scale)
        images, texts = self._features
        self._likeness = self._rounded(images @ texts.T).astype(np.float32)
        logits = self._likeness * self._scale + self._bias
        shifted = np.array([logits, logits.T])  # by image, by text
        shifted -= shifted.max(axis=2, keepdims=True)
        exp = np.exp(shifted)
        total = exp.sum(axis=2, keepdims=True)
        self._p: Floats = exp / total
        return float((np.log(total[:, :, 0]) - shifted[:, self._own, self._own]).mean())

    def backward(self, loss_scale: float) -> tuple[Floats, float]:
        """Gradients of the features [2, pairs, embedding] and of ln(scale), multiplied by `loss_scale`."""
        d = (self._p[0] + self._p[1].T - 2 * self._same) * np.float32(loss_scale / (2 * len(self._own)))
        d_log_scale = float((d * self._likeness).sum() * self._scale)
        d = self._rounded(d)
        d_features = self._rounded(np.array([d, d.T]) @ self._features[::-1])
        return d_features.astype(np.float32) * self._scale, d_log_scale


def _turned(matrices: Array) -> Array:
    return matrices.transpose(0, 2, 1)
