"""Zero-shot accuracy of real (small, untrained) models: shares of ranks add up to exactly the whole."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image

from tests.trainer.shard_files import write_shard
from trainer.contract import Classes, ZeroShot
from trainer.models import register_models
from trainer.vocabulary import EvaluationError, vocabulary
from trainer.zeroshot import Counts, zero_shot

Clip = tuple[Any, Any, Any]  # model, tokenizer, transform
SAMPLES = 53  # not a multiple of any number of ranks or batch size below


def picture(number: int) -> bytes:
    """A patchwork of its own: an untrained model sees many classes in them."""
    noise = random.Random(number)
    small = Image.new("RGB", (4, 4))
    small.putdata([(noise.randrange(256), noise.randrange(256), noise.randrange(256)) for _ in range(16)])
    buffer = io.BytesIO()
    small.resize((32, 32), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def clip() -> Clip:
    register_models()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    # patch dropout: a model that is not switched to evaluation scores differently every time
    model, _, preprocess = open_clip.create_model_and_transforms("ViT-digits-32", force_patch_dropout=0.5)
    return model.train(), open_clip.get_tokenizer("ViT-digits-32"), preprocess


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """ImageNet's layout: one folder a class."""
    for label in range(10):
        (tmp_path / "val" / f"n{label:04d}").mkdir(parents=True)
    for number in range(SAMPLES):
        (tmp_path / "val" / f"n{number % 10:04d}" / f"{number:03d}.PNG").write_bytes(picture(number))
    (tmp_path / "val" / "n0000" / "README.txt").write_text("no picture")
    return tmp_path / "val"


@pytest.fixture
def shards(tmp_path: Path) -> str:
    for shard, numbers in enumerate((range(0, 20), range(20, 21), range(21, SAMPLES))):
        members = {f"{number:03d}": {"png": picture(number), "cls": str(number % 10).encode()} for number in numbers}
        write_shard(tmp_path / f"{shard}.tar", members)
    return f"{tmp_path}/{{0..2}}.tar"


def score(clip: Clip, data: str | Path, *, rank: int = 0, ranks: int = 1, **other: Any) -> Counts:
    zeroshot = ZeroShot(data=str(data), **{"classes": Classes.DIGITS, "batch_size": 7} | other)
    autocast = contextlib.nullcontext
    return zero_shot(*clip, zeroshot, rank=rank, ranks=ranks, device="cpu", autocast=autocast)


def expected(clip: Clip) -> Counts:
    """All in one go, by the definition."""
    model, tokenizer, preprocess = clip
    texts = vocabulary(Classes.DIGITS)
    model.eval()
    with torch.no_grad():
        prompts = [[str(template).format(name) for template in texts.templates] for name in texts.names]
        means = [model.encode_text(tokenizer(each), normalize=True).mean(0) for each in prompts]
        classes = torch.stack([mean / mean.norm() for mean in means])
        images = torch.stack([preprocess(Image.open(io.BytesIO(picture(number)))) for number in range(SAMPLES)])
        order = (model.encode_image(images, normalize=True) @ classes.T).argsort(dim=1, descending=True)
    model.train()
    places = [order[number].tolist().index(number % 10) for number in range(SAMPLES)]
    return Counts(sum(place < 1 for place in places), sum(place < 5 for place in places), SAMPLES)


@pytest.mark.parametrize("ranks", [1, 3, 5])
def test_the_shares_of_all_ranks_add_up_to_the_whole(clip: Clip, folder: Path, shards: str, ranks: int) -> None:
    for data in (folder, shards):
        shares = [score(clip, data, rank=rank, ranks=ranks) for rank in range(ranks)]
        total = Counts(*(sum(getattr(each, name) for each in shares) for name in ("top1", "top5", "samples")))
        assert total == expected(clip)
        assert 0 < total.top1 < total.top5 < SAMPLES
        assert all(each.samples for each in shares)


def test_a_rank_without_a_sample_counts_none(clip: Clip, shards: str) -> None:
    assert score(clip, shards, rank=70, ranks=80) == Counts(0, 0, 0)


def test_the_model_is_left_as_it_was(clip: Clip, shards: str) -> None:
    model = clip[0]
    score(clip, shards)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_name_of_classes_has_texts_and_imagenets_are_open_clips() -> None:
    texts = {classes: vocabulary(classes) for classes in Classes}[Classes.IMAGENET]
    assert (len(texts.names), len(texts.templates)) == (1000, 80)
    assert texts.names[0] == "tench"


def test_another_number_of_classes_than_texts_is_refused(clip: Clip, folder: Path) -> None:
    (folder / "n9999").mkdir()
    with pytest.raises(EvaluationError, match="11 class folders, expected 10"):
        score(clip, folder)


def test_a_damaged_or_missing_set_is_an_error_that_names_the_file(
    clip: Clip, folder: Path, shards: str, tmp_path: Path
) -> None:
    with pytest.raises(EvaluationError, match=r"nowhere\.tar is damaged or missing"):
        score(clip, tmp_path / "nowhere.tar")
    (folder / "n0003" / "003.PNG").write_bytes(picture(3)[:80])
    with pytest.raises(EvaluationError, match=r"n0003/003\.PNG"):
        score(clip, folder)
    (tmp_path / "2.tar").write_bytes((tmp_path / "2.tar").read_bytes()[:9000])
    with pytest.raises(EvaluationError, match=r"2\.tar"):
        score(clip, shards)
    write_shard(tmp_path / "1.tar", {"020": {"png": picture(20), "cls": b"10"}})
    with pytest.raises(EvaluationError, match=r"1\.tar: sample 020 has no image, or no class from 0 to 9"):
        score(clip, shards)


def test_an_error_leaves_the_model_in_training(clip: Clip, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError):
        score(clip, tmp_path / "nowhere.tar")
    assert clip[0].training
