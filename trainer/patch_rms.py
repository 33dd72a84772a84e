"""RMS_t of the patch embedding: how far its gradient is from what AdamW's second moment expects of it.

Of a layer with gradient g and second moment v: sqrt(mean(g^2 / max(v_t, eps^2))), v_t corrected for bias and with g in
it. About 1 while all is well. Loss spikes of CLIP come 1 to 8 steps after a high one of this layer, which is one above
2.3 (Wortsman et al., "Stable and low-precision training for large-scale vision-language models", arXiv 2304.13013).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

NONE = 0.0  # there is no such layer, or the optimizer has seen none of its gradients


def _alone(total: torch.Tensor) -> torch.Tensor:
    return total


class PatchRms:
    def __init__(
        self, model: nn.Module, optimizer: torch.optim.AdamW, of_all: Callable[[torch.Tensor], torch.Tensor] = _alone
    ) -> None:
        """`of_all`: the sum of what all ranks have, where each holds a part of the layer."""
        self._optimizer, self._of_all = optimizer, of_all
        self._weight = patch_embedding(model)
        self._none = next(model.parameters()).new_tensor(NONE)

    def __call__(self) -> torch.Tensor:
        """Of the gradient that the next step will take; on its device, in about ten small kernels."""
        weight = self._weight
        state = self._optimizer.state.get(weight) if weight is not None else None
        if weight is None or weight.grad is None or not state:
            return self._none
        group = self._optimizer.param_groups[-1]
        (_, beta2), eps = group["betas"], group["eps"]
        square = _own(weight.grad).square()
        moment = torch.lerp(square, _own(state["exp_avg_sq"]), beta2) / (1 - beta2 ** (_own(state["step"]) + 1))
        ratios = square / moment.clamp(min=eps**2)
        return (self._of_all(ratios.sum()) / weight.numel()).sqrt()


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of it."""
    own: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own


def patch_embedding(model: nn.Module) -> nn.Parameter | None:
    """The image tower's first convolution: open_clip's conv1, timm's patch_embed.proj."""
    convolutions = (module for module in model.visual.modules() if isinstance(module, nn.Conv2d))
    first = next(convolutions, None)
    return None if first is None or not first.weight.requires_grad else first.weight
