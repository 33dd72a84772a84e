"""RMS_t of the patch embedding: how far its gradient is from what AdamW's second moment expects of it.

Of a layer with gradient g and second moment v: sqrt(mean(g^2 / max(v_t, eps^2))), v_t corrected for bias and with g in
it. About 1 while all is well. Loss spikes of CLIP come 1 to 8 steps after a high one of this layer, which is one above
2.3 (Wortsman et al., "Stable and low-precision training for large-scale vision-language models", arXiv 2304.13013).
"""

from __future__ import annotations

import torch
from torch import nn

NONE = 0.0  # there is no such layer, or the optimizer has seen none of its gradients


class PatchRms:
    def __init__(self, model: nn.Module, optimizer: torch.optim.AdamW) -> None:
        self._optimizer = optimizer
        self._weight = patch_embedding(model)
        self._none = torch.tensor(NONE, device=next(model.parameters()).device)

    def __call__(self) -> torch.Tensor:
        """Of the gradient that the next step will take; on its device, in about ten small kernels."""
        weight = self._weight
        state = self._optimizer.state.get(weight) if weight is not None else None
        if weight is None or weight.grad is None or not state:
            return self._none
        group = self._optimizer.param_groups[-1]
        (_, beta2), eps = group["betas"], group["eps"]
        square = weight.grad.square()
        moment = torch.lerp(square, state["exp_avg_sq"], beta2) / (1 - beta2 ** (state["step"] + 1))
        # A sum is what ranks that hold unequal parts of the layer can add up.
        return ((square / moment.clamp(min=eps**2)).sum() / weight.numel()).sqrt()


def patch_embedding(model: nn.Module) -> nn.Parameter | None:
    """The image tower's first convolution: open_clip's conv1, timm's patch_embed.proj."""
    convolutions = (module for module in model.visual.modules() if isinstance(module, nn.Conv2d))
    first = next(convolutions, None)
    return None if first is None or not first.weight.requires_grad else first.weight
