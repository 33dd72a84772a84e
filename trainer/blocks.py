"""Changes of the transformer blocks in both towers, by open_clip's own switches: those tried on the card's L/14.

Two calls that open_clip 3.3 makes of its modified blocks fail, and are mended here: cosine attention multiplies tensors
of four dimensions by `torch.bmm`, which takes three, and gradient checkpointing calls a block with two arguments more
than it has.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from open_clip.transformer import Attention, CustomResidualAttentionBlock, ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional

from trainer.contract import TrainSpec
from trainer.models import configuration_of
from trainer.unusable import Unusable


def configuration(spec: TrainSpec) -> dict[str, Any]:
    """What create_model takes in place of the model's own towers; nothing where no switch is on."""
    wanted = switched_on(spec)
    if not wanted:
        return {}
    config = configuration_of(spec.model)
    if config is None:
        raise Unusable(_refusal(spec, "open_clip has no configuration of it to change"))
    forced = {"patch_dropout": spec.force_patch_dropout, "image_size": spec.force_image_size}
    image = wanted | {name: value for name, value in forced.items() if value is not None}
    return {"vision_cfg": config["vision_cfg"] | image, "text_cfg": config["text_cfg"] | wanted}


def switched_on(spec: TrainSpec) -> dict[str, bool]:
    return {name: True for name, on in dataclasses.asdict(spec.blocks).items() if on}


def blocks_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    """By tower, `image` and `text`. None for timm's, Hugging Face's and ResNets."""
    kinds = (ResidualAttentionBlock, CustomResidualAttentionBlock)
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    return {
        "image": [module for name, module in found if name.startswith("visual.")],
        "text": [module for name, module in found if not name.startswith("visual.")],
    }


def mend(model: nn.Module, spec: TrainSpec) -> None:
    """Unusable where a tower has taken no notice of a switch."""
    if not switched_on(spec):
        return
    for tower, blocks in blocks_of(model).items():
        if not any(isinstance(block, CustomResidualAttentionBlock) for block in blocks):
            raise Unusable(_refusal(spec, f"its {tower} tower has no transformer blocks of open_clip's"))
    for module in model.modules():
        if isinstance(module, CustomResidualAttentionBlock):
            module.forward = partial(_block, module)
        elif isinstance(module, Attention) and module.logit_scale is not None:
            module.forward = partial(_cosine_attention, module)


def _block(block: CustomResidualAttentionBlock, x: Tensor, *rest: Any, attn_mask: Tensor | None = None) -> Tensor:
    """`rest`: keys and values, which are None, and the mask, where open_clip checkpoints gradients."""
    result: Tensor = type(block).forward(block, x, attn_mask=rest[-1] if rest else attn_mask)
    return result


def _cosine_attention(attention: Attention, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """open_clip's, [B, n, D] to the same."""
    count, length, width = x.shape
    projected = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    queries, keys, values = projected.reshape(count, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    scale = torch.clamp(attention.logit_scale, max=attention.logit_scale_max).exp()
    queries, keys = functional.normalize(queries, dim=-1) * scale, functional.normalize(keys, dim=-1)
    mask = None if attn_mask is None else attn_mask.to(values.dtype)
    queries, keys = queries.to(values.dtype), keys.to(values.dtype)
    heads = functional.scaled_dot_product_attention(queries, keys, values, mask, scale=1.0)
    if attention.head_scale is not None:
        heads = heads * attention.head_scale
    result: Tensor = attention.out_proj(attention.ln_inner(heads.transpose(1, 2).reshape(count, length, width)))
    return result


def _refusal(spec: TrainSpec, rule: str) -> str:
    first = next(iter(switched_on(spec)))
    return f"train.blocks.{first}=true: {spec.model}: {rule}; train.blocks.{first}=false"
