"""A model of a few hundred parameters with AdamW: the loop's `Trainee`, as ClipTrainee is for open_clip's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.contract import FaultKind, TrainSpec
from trainer.position import Position
from trainer.rehearsal.arithmetic import ARITHMETICS
from trainer.rehearsal.pairs import PAIRS, SIZE, Batch, uniform
from trainer.rehearsal.ranks import Agreed, Row
from trainer.rehearsal.towers import FACTORS, Contrast, Towers
from trainer.schedule import Geometry

Floats = NDArray[np.float32]

WIDTH, EMBEDDING = 12, 8
LAYERS = {"hidden": (2, SIZE, WIDTH), "out": (2, WIDTH, EMBEDDING)}  # of the images' tower and of the texts'
FIRST_LOGIT_SCALE, LAST_LOGIT_SCALE = math.log(1 / 0.07), math.log(100)  # open_clip's


class RehearsalTrainee:
    """Weights and moments are flat float32 vectors; `logit_scale` (a logarithm) is the last of them."""

    def __init__(self, spec: TrainSpec, geometry: Geometry) -> None:
        np.seterr(all="ignore")  # for the whole process: what is not finite is told in the rows
        self._spec = spec
        arithmetic = ARITHMETICS[spec.precision]
        self._loss_scale = arithmetic.loss_scale()
        self.weights = _first_weights(spec.seed)
        self._first, self._second = np.zeros_like(self.weights), np.zeros_like(self.weights)
        self._updates = 0
        self._decayed = np.ones_like(self.weights)
        self._decayed[-1] = 0
        layers = _layers(self.weights)
        self._towers = Towers(layers["hidden"], layers["out"], arithmetic.rounded)
        self._contrast = Contrast(PAIRS, geometry.global_batch, arithmetic.rounded)
        self.own_seconds = 0.0

    def features(self, pairs: Floats) -> Floats:
        """[2, n, SIZE] -> [2, n, EMBEDDING] of length 1."""
        return self._towers.forward(pairs)

    def forward_backward(self, batch: Batch, at: Position) -> Row:
        start = time.perf_counter()
        if seconds := self._spec.rehearsal.step_seconds:  # to sleep for 0 s is to lose one's turn
            time.sleep(seconds)
        scale, logit_scale = self._loss_scale.scale, math.exp(self.weights[-1])
        loss = self._contrast.forward(self._towers.forward(batch.pairs), logit_scale)
        d_features, d_log_scale = self._contrast.backward(scale)
        hidden, out = self._towers.backward(d_features)
        gradient = np.concatenate((hidden.ravel(), out.ravel(), (d_log_scale,)), dtype=np.float32)
        self.own_seconds = time.perf_counter() - start
        # All that is not finite in this rank's features is in its loss: no other rank's are.
        measured = (loss, math.isfinite(loss), 0.0, self._loss_scale.told, logit_scale, 0.0)
        return Row(measured, gradient / np.float32(scale))

    def update(self, agreed: Agreed, lr: float) -> None:
        if not self._loss_scale.admits(agreed):
            return
        optim, gradient = self._spec.optim, agreed.gradient
        if optim.grad_clip_norm is not None:
            gradient = gradient * np.float32(min(1.0, optim.grad_clip_norm / (agreed.grad_norm + 1e-6)))
        self._updates += 1
        self._first += np.float32(1 - optim.beta1) * (gradient - self._first)
        self._second += np.float32(1 - optim.beta2) * (gradient * gradient - self._second)
        first = self._first / (1 - optim.beta1**self._updates)
        second = self._second / (1 - optim.beta2**self._updates)
        self.weights *= 1 - np.float32(lr * optim.wd) * self._decayed
        self.weights -= np.float32(lr) * first / (np.sqrt(second) + np.float32(optim.eps))
        self.weights[-1] = min(max(self.weights[-1], 0.0), LAST_LOGIT_SCALE)

    def rehearse(self, kind: FaultKind) -> None:
        self._towers.factors.append(FACTORS[kind])

    def reserve(self) -> Callable[[], None]:
        return lambda: None  # a few hundred numbers

    def state(self) -> dict[str, Any]:
        weights = {name: layer.copy() for name, layer in _layers(self.weights).items()}
        moments = {"updates": self._updates, "first": self._first.copy(), "second": self._second.copy()}
        return {"state_dict": weights, "optimizer": moments, "scaler": self._loss_scale.state()}

    def contribute(self) -> None:
        """Nothing: all ranks hold the same."""

    def is_finite(self, state: Mapping[str, Any]) -> bool:
        return all(bool(np.isfinite(layer).all()) for layer in state["state_dict"].values())

    def load(self, state: Mapping[str, Any]) -> None:
        """Weights, moments and, from float16 to float16, the loss scale. The settings are the spec's."""
        for name, layer in _layers(self.weights).items():
            layer[...] = state["state_dict"][name]
        moments = state["optimizer"]
        self._updates, self._first[:], self._second[:] = int(moments["updates"]), moments["first"], moments["second"]
        if state["scaler"]:
            self._loss_scale.load(state["scaler"])


def _layers(weights: Floats) -> dict[str, Floats]:
    """Views into the flat vector."""
    layers, start = {}, 0
    for name, shape in LAYERS.items():
        layers[name] = weights[start : start + math.prod(shape)].reshape(shape)
        start += math.prod(shape)
    return layers | {"logit_scale": weights[start:]}


def _first_weights(seed: int) -> Floats:
    """The same on all ranks: a function of the seed."""
    layers = (uniform(shape, seed, "weights", name) * _first_bound(shape) for name, shape in LAYERS.items())
    return np.concatenate([*(layer.ravel() for layer in layers), [FIRST_LOGIT_SCALE]]).astype(np.float32)


def _first_bound(shape: tuple[int, ...]) -> np.float32:
    """Xavier's: what goes into a layer comes out as large."""
    return np.float32(math.sqrt(3 / shape[-2]))
