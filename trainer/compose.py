"""A batch of tensors from the bytes of its pairs. What cannot be decoded is replaced within the batch and counted."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from trainer.shards import DataError, Pair, Tally

Preprocess = Callable[[Image.Image], Tensor]
Tokenizer = Callable[[str], Tensor]

# What Pillow's decoders are known to raise on damaged files, and `bytes.decode` on text that is not UTF-8.
UNDECODABLE = (
    OSError,
    SyntaxError,  # PNG
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    ArithmeticError,
    TypeError,
    RuntimeError,  # WebP
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Batch:
    images: Tensor  # [B, 3, H, W], as `preprocess` gives them
    texts: Tensor  # [B, context] int64
    bad: Mapping[str, int]  # samples that could not be used, by shard, met since the last batch of the same worker
    seen: int  # samples read since then, usable or not; the shuffle buffer reads ahead

    def pin_memory(self) -> Batch:
        """torch's DataLoader calls this."""
        return replace(self, images=self.images.pin_memory(), texts=self.texts.pin_memory())


def compose(window: Sequence[Pair], seed: int, preprocess: Preprocess, tokenizer: Tokenizer, tally: Tally) -> Batch:
    """`seed` fixes the augmentations. DataError if not one pair can be used."""
    with seeded(seed):
        decoded = [_decode(pair, preprocess, tokenizer, tally) for pair in window]
    usable = [sample for sample in decoded if sample is not None]
    if not usable:
        raise DataError(f"a batch without one usable sample, from {', '.join(sorted({pair.shard for pair in window}))}")
    # Another pair in the place of a broken one: the following samples, batches and steps stay what they are.
    images, texts = zip(
        *(sample or usable[index % len(usable)] for index, sample in enumerate(decoded)),
        strict=True,
    )
    return Batch(torch.stack(images), torch.stack(texts), *tally.take())


def _decode(pair: Pair, preprocess: Preprocess, tokenizer: Tokenizer, tally: Tally) -> tuple[Tensor, Tensor] | None:
    try:
        return preprocess(open_image(pair.image)), tokenizer(pair.text.decode())[0]
    except UNDECODABLE as error:
        tally.reject(pair.shard, error)
        return None


def open_image(content: bytes | Path) -> Image.Image:
    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
        return image.convert("RGB")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Fixed random numbers for the transforms (torch and random), and none taken from anybody else's generator.

    Only torch's CPU generator: torch.manual_seed would also reset the model's one on the GPU.
    """
    before = random.getstate(), torch.default_generator.get_state()
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        torch.default_generator.set_state(before[1])
