"""Texts without their padding: what follows a text's end changes no number, and is most of the text tower's work.

That holds where attention is causal and a text's features are those of its end token, which has the largest id:
open_clip's `CLIP`. Its own `encode_text` takes texts of the whole context only.
"""

from __future__ import annotations

from functools import partial

import torch
from open_clip import CLIP
from torch import Tensor, nn
from torch.nn import functional


def takes_short_texts(model: nn.Module) -> bool:
    """Teaches it to `model` where that changes no number; False: it wants all of its context."""
    if type(model) is not CLIP or model.text_pool_type != "argmax" or model.attn_mask is None:
        return False
    model.encode_text = partial(_encode_text, model)
    return True


def shortened(texts: Tensor) -> Tensor:
    """[B, context] on the host to [B, longest]: up to where the last of them ends."""
    return texts[:, : int(texts.argmax(dim=1).max()) + 1].contiguous()


def _encode_text(model: CLIP, texts: Tensor, normalize: bool = False) -> Tensor:
    """[B, n], n up to the context, to features [B, D]."""
    length, dtype = texts.shape[1], model.transformer.get_cast_dtype()
    states = model.token_embedding(texts).to(dtype) + model.positional_embedding[:length].to(dtype)
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    features = states[torch.arange(len(texts), device=texts.device), texts.argmax(dim=1)]
    projection = model.text_projection
    if projection is not None:
        features = projection(features) if isinstance(projection, nn.Linear) else features @ projection
    return functional.normalize(features, dim=-1) if normalize else features
