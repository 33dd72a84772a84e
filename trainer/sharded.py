"""`parallel: fsdp`, for models that do not fit: each rank holds a part of every weight, gradient and moment.

torch's FSDP2 (`fully_shard`), block by block: a block's weights are gathered when it computes, and its gradients are
summed up and shared out again. Weights and sums are float32 and autocast does the rest, as in DDP: the same numbers but
for the order of sums. Checkpoints are whole, so each may go on from the other's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from trainer.blocks import blocks_of
from trainer.clip import AUTOCAST, PREFIX, ClipTrainee
from trainer.contract import Parallel, TrainSpec
from trainer.snapshot import Snapshot
from trainer.unusable import Unusable

INSTEAD = f"train.parallel={Parallel.DDP}"


class ShardedTrainee(ClipTrainee):
    """`model` may lie on the CPU: its parts go to `device`, which never holds all of it. `ranks`: more than one."""

    own_seconds = 0.0  # a forward pass waits for the other ranks' weights: there is no stretch of this rank's own

    def __init__(self, spec: TrainSpec, model: nn.Module, loss: nn.Module, device: torch.device, rank: int, ranks: int):
        self._scalars = flatten_scalars(model)
        super().__init__(spec, model, loss, device, rank, ranks)
        self._snapshot = Snapshot(whole)
        patch_rms = self._patch_rms
        self._patch_rms = lambda: whole(patch_rms())

    def _wrapped_in(self, ranks: int) -> nn.Module:
        shard(self.model, self._device, ranks)
        return self.model

    def autocast(self) -> AbstractContextManager[Any]:
        """Its cache would hold each weight's half-precision copy until the forward pass ends: a second, whole model."""
        dtype = AUTOCAST.get(self._spec.precision)
        return torch.autocast(self._device.type, dtype=dtype, cache_enabled=False) if dtype else nullcontext()

    def _forward(self, model: nn.Module, pairs: Sequence[Tensor], seed: int) -> tuple[Tensor, ...]:
        """The scale is a number again: a vector would lift its product with half-precision features to float32."""
        images, texts, logit_scale = super()._forward(model, pairs, seed)
        return images, texts, logit_scale.reshape(())

    def _norm_of(self, gradients: list[Tensor]) -> Tensor:
        return whole(super()._norm_of(gradients))

    def state(self) -> dict[str, Any]:
        return self._snapshot.take(self._with_scalars(self._state()))

    def contribute(self) -> None:
        self._snapshot.lend(self._with_scalars(self._state()))

    def _with_scalars(self, state: dict[str, Any]) -> dict[str, Any]:
        """As DDP has them. All ranks must take part."""
        weights, moments = state["state_dict"], state["optimizer"]["state"]
        for name in self._scalars:
            weights[PREFIX + name] = scalar(weights[PREFIX + name])
        for place, name in enumerate(name for names in self.places() for name in names):
            if place in moments and name in self._scalars:
                moments[place] = {key: scalar(tensor) for key, tensor in moments[place].items()}
        return state

    def sizes(self) -> dict[str, torch.Size]:
        return super().sizes() | {name: torch.Size(()) for name in self._scalars}

    def _load_weights(self, weights: Mapping[str, Tensor]) -> None:
        own = self.model.state_dict()
        for name, full in weights.items():
            put(own[name], full)

    def _load_moments(self, saved: Mapping[str, Any]) -> None:
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        own = {place: _own(moments, parameters[int(place)]) for place, moments in saved["state"].items()}
        super()._load_moments({**saved, "state": own})


class Encoders(nn.Module):
    """The towers of a sharded model, each by the model's own forward pass: only there its weights are gathered."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def encode_image(self, images: Tensor, normalize: bool = True) -> Tensor:
        """[B, 3, H, W] to [B, D] of length 1, which is all that forward passes give. All ranks must take part."""
        features: Tensor = self._model(images, None)[0]
        return features

    def encode_text(self, texts: Tensor, normalize: bool = True) -> Tensor:
        features: Tensor = self._model(None, texts)[1]
        return features


def flatten_scalars(model: nn.Module) -> tuple[str, ...]:
    """Logit scale and bias become vectors of one number, as `fully_shard` takes no others; returns their names."""
    names = [name for name, parameter in model.named_parameters() if parameter.ndim == 0]
    for name in names:
        owner, _, leaf = name.rpartition(".")
        parameter = model.get_parameter(name)
        flat = nn.Parameter(parameter.detach()[None], requires_grad=parameter.requires_grad)
        setattr(model.get_submodule(owner), leaf, flat)
    return tuple(names)


def shard(model: nn.Module, device: torch.device, ranks: int) -> None:
    """In place: each block by itself, then what is left. Unusable for towers of which no blocks are known."""
    towers = blocks_of(model)
    for tower, blocks in towers.items():
        if not blocks:
            raise Unusable(f"its {tower} tower has no transformer blocks of open_clip's to share out; {INSTEAD}")
    mesh = init_device_mesh(device.type, (ranks,))
    for block in [*towers["image"], *towers["text"]]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """What all ranks hold of it together; all of them must take part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def scalar(tensor: Tensor) -> Tensor:
    return whole(tensor.detach()).reshape(())


def put(own: Tensor, full: Tensor) -> None:
    """Copies this rank's part of `full`. FSDP2 divides the first dimension as torch.chunk does."""
    with torch.no_grad():
        if not isinstance(own, DTensor):
            own.copy_(full)
            return
        part, mesh = own.to_local(), own.device_mesh
        first = mesh.get_local_rank() * -(-own.shape[0] // mesh.size())
        part.copy_(full.reshape(own.shape)[first : first + len(part)])


def _own(moments: Mapping[str, Any], parameter: nn.Parameter) -> dict[str, Any]:
    own: dict[str, Any] = {}
    for key, full in moments.items():
        if key == "step":  # one number for all ranks
            own[key] = full
        else:
            own[key] = torch.zeros_like(parameter)
            put(own[key], full)
    return own
