"""Images travel as bytes, from the worker to the device: a quarter of float32's shared memory, and of its way.

The device then makes of them what open_clip's transform would have made: (byte / 255 - mean) / std, to the last bit on
a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import Compose, Normalize, PILToTensor, ToTensor


def as_bytes(preprocess: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """The same transform up to its numbers: [3, H, W] uint8. One that does not end as open_clip's do stays as it is."""
    match getattr(preprocess, "transforms", []):
        case [*before, ToTensor(), Normalize()]:
            return Compose([*before, PILToTensor()])
    return preprocess


class Normalized:
    """[B, 3, H, W] uint8 on `device` to float32, as `model` wants them; what is float32 already passes through."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        wanted = model.visual.preprocess_cfg
        self._mean, self._std = (
            torch.tensor(wanted[name], dtype=torch.float32, device=device).view(-1, 1, 1) for name in ("mean", "std")
        )

    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype is not torch.uint8:
            return images
        return images.float().div_(255).sub_(self._mean).div_(self._std)
