"""Texts are computed without their padding: no number changes, but for the order in which some are added up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from trainer.short_texts import shortened, takes_short_texts

MODELS = Path(__file__).parent / "models"
CONTEXT, END = 8, 255
# Three, five and four tokens, end included; with a padding of zeros.
TEXTS = torch.tensor([[7, 9, END] + 5 * [0], [1, 2, 3, 4, END] + 3 * [0], [254, 1, 2, END] + 4 * [0]])


def model(**options: Any) -> nn.Module:
    open_clip.add_model_config(MODELS)
    torch.manual_seed(0)
    return open_clip.create_model("ViT-small-32", **options)


def features_and_gradients(of: nn.Module, texts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    of.zero_grad()
    features = of.encode_text(texts, normalize=True)
    (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
    return features.detach(), {
        name: tensor.grad.clone() for name, tensor in of.named_parameters() if tensor.grad is not None
    }


def test_texts_end_where_the_longest_of_them_does() -> None:
    assert shortened(TEXTS).tolist() == TEXTS[:, :5].tolist()
    full = torch.cat([TEXTS, torch.tensor([[1, 2, 3, 4, 5, 6, 7, END]])])
    assert shortened(full).shape == (4, CONTEXT)


def test_features_and_gradients_are_those_of_the_whole_context() -> None:
    whole, short = model(), model()
    assert takes_short_texts(short)
    features, gradients = features_and_gradients(whole, TEXTS)
    ours, own = features_and_gradients(short, shortened(TEXTS))
    torch.testing.assert_close(ours, features, rtol=1e-5, atol=1e-6)
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert not own["positional_embedding"][5:].any(), "nor has open_clip a gradient there"


def test_whole_texts_are_taken_as_before() -> None:
    whole, short = model(), model()
    takes_short_texts(short)
    assert torch.equal(short.encode_text(TEXTS), whole.encode_text(TEXTS))


@pytest.mark.parametrize("text_cfg", [{"pool_type": "last"}, {"no_causal_mask": True}])
def test_a_model_whose_numbers_would_change_is_left_alone(text_cfg: dict[str, Any]) -> None:
    open_clip.add_model_config(MODELS)
    config = open_clip.get_model_config("ViT-small-32")
    other = open_clip.CLIP(**config | {"text_cfg": config["text_cfg"] | text_cfg})
    assert not takes_short_texts(other)
    assert "encode_text" not in vars(other)
