"""What the device makes of an image's bytes is what open_clip's own transform makes of the image."""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Compose, Normalize, ToTensor

from tests.trainer.attempts import digits_spec
from trainer.compose import seeded
from trainer.models import register_models
from trainer.pixels import Normalized, as_bytes
from trainer.place import Place
from trainer.position import Position
from trainer.schedule import Geometry
from trainer.torch_engine import create, equip, tokenizer_of, train_transform

CPU = torch.device("cpu")
Made = tuple[nn.Module, Callable[[Image.Image], Tensor]]


@pytest.fixture(scope="module")
def made(digits: Path) -> Made:
    """A model and its transform of images for training."""
    register_models()
    model, preprocess, _ = create(digits_spec(digits), CPU)
    return model, preprocess


def image(mode: str, size: tuple[int, int]) -> Image.Image:
    bands = len(mode)  # L, RGB, RGBA
    return Image.frombytes(mode, size, random.Random(7).randbytes(size[0] * size[1] * bands))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_bytes_become_the_very_numbers(made: Made, mode: str) -> None:
    model, preprocess = made
    pictures = [image(mode, (40 + number, 64 - number)) for number in range(8)]
    with seeded(3):
        theirs = torch.stack([preprocess(picture) for picture in pictures])
    with seeded(3):
        ours = torch.stack([as_bytes(preprocess)(picture) for picture in pictures])
    assert (theirs.dtype, ours.dtype, ours.shape) == (torch.float32, torch.uint8, theirs.shape)
    assert ours.is_contiguous()
    assert Normalized(model, CPU)(ours).equal(theirs)


def test_workers_hand_over_bytes_and_begin_before_there_is_a_model(digits: Path) -> None:
    spec = digits_spec(digits, data={"workers": 1})
    equipment = equip(spec, Place(0, 1, 0))
    with closing(equipment.source(Position(Geometry.of(spec, 1)))) as source:
        assert "_created" not in vars(equipment) and len(multiprocessing.active_children()) == 1
        batch = next(source.batches(1))
    assert (batch.images.dtype, batch.images.shape) == (torch.uint8, (spec.batch_size, 3, 32, 32))


@pytest.mark.parametrize(
    "changes", [{}, {"force_image_size": 64}, {"model": "ViT-M-32-alt"}, {"model": "convnext_tiny"}], ids=repr
)
def test_the_images_of_a_model_that_has_a_name_are_known_before_it_is(digits: Path, changes: dict[str, Any]) -> None:
    register_models()
    spec = digits_spec(digits, **changes)
    assert repr(train_transform(spec)) == repr(create(spec, CPU)[1])


@pytest.mark.parametrize("model", ["ViT-digits-32", "ViT-B/32", "ViT-B-32"])
def test_the_tokenizer_that_is_there_already_says_what_another_one_would(model: str) -> None:
    register_models()
    texts = ["a photo of the number seven", "Ünïcode & an emoji 🙂, " + "many words " * 60]
    tokenize = tokenizer_of(model)
    assert isinstance(tokenize, partial)
    assert tokenize(texts).equal(open_clip.get_tokenizer(model)(texts))


def test_a_model_with_a_tokenizer_of_its_own_keeps_it() -> None:
    config = open_clip.get_model_config("ViT-B-32") | {"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize"}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(open_clip.factory._MODEL_CONFIGS, "canonical", config)
        texts = ["Strip, the: punctuation!"]
        assert tokenizer_of("canonical")(texts).equal(open_clip.get_tokenizer("canonical")(texts))
        assert not tokenizer_of("canonical")(texts).equal(tokenizer_of("ViT-B-32")(texts))


def test_a_model_that_is_a_folder_is_asked_itself(digits: Path, tmp_path: Path) -> None:
    config = open_clip.get_model_config("ViT-digits-32")
    config["vision_cfg"]["image_size"] = 64
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    spec = digits_spec(digits, model=f"local-dir:{tmp_path}")
    assert train_transform(spec) is None
    equipment = equip(spec, Place(0, 1, 0))
    with closing(equipment.source(Position(Geometry.of(spec, 1)))) as source:
        assert next(source.batches(1)).images.shape == (spec.batch_size, 3, 64, 64)


def test_what_is_normalised_already_passes_through(made: Made) -> None:
    images = torch.rand(2, 3, 32, 32)
    assert Normalized(made[0], CPU)(images) is images


@pytest.mark.parametrize("steps", [[], [ToTensor()], [ToTensor(), ToTensor()], [Normalize((0.5,), (0.5,))]])
def test_another_transform_stays_what_it_is(steps: list[nn.Module]) -> None:
    preprocess = Compose(steps)
    assert as_bytes(preprocess) is preprocess
