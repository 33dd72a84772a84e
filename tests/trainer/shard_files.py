"""Small real shards, and the transform and tokenizer that read them back as numbers."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from trainer.contract import Data, Stream, TrainSpec
from trainer.data import Loader

SIDE = 4


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def pair(number: int) -> dict[str, bytes]:
    return {"png": png(number), "txt": f"picture {number}".encode()}


def write_shard(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for suffix, content in members.items():
                header = tarfile.TarInfo(f"{key}.{suffix}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    return path


def write_shards(folder: Path, shards: int, pairs: int) -> str:
    """`pairs` in each; picture n is in shard n // pairs. The brace pattern of their paths."""
    for shard in range(shards):
        numbers = range(shard * pairs, (shard + 1) * pairs)
        write_shard(folder / f"{shard:03d}.tar", {f"{number:05d}": pair(number) for number in numbers})
    return f"{folder}/{{000..{shards - 1:03d}}}.tar"


def noisy(image: Image.Image) -> Tensor:
    """Exact pixels plus the noise of both generators that transforms use: shows any change of augmentation."""
    pixels = torch.tensor(list(image.tobytes()), dtype=torch.float32).reshape(SIDE, SIDE, 3).permute(2, 0, 1)
    return pixels + torch.rand(()) * 0.25 + random.random() * 0.25


def number_of(text: str) -> Tensor:
    return torch.tensor([[int(text.split()[-1])]])


def spec(pattern: str, *, samples: int, batch_size: int, seed: int = 0, **data: object) -> TrainSpec:
    return TrainSpec(
        model="none",
        data=Data(train_data=pattern, train_num_samples=samples, **data),  # type: ignore[arg-type]
        epochs=4,
        batch_size=batch_size,
        seed=seed,
    )


@contextmanager
def loading(train: TrainSpec, *, rank: int = 0, ranks: int = 1, workers: int = 0, origin: int = 0) -> Iterator[Loader]:
    stream = Stream(batch_size=train.batch_size, ranks=ranks, workers=workers, origin=origin)
    loader = Loader(train, rank, stream, noisy, number_of)
    try:
        yield loader
    finally:
        loader.close()


Numbers = list[tuple[list[float], list[int], dict[str, int], int]]


def numbers(loader: Loader, epoch: int, first_step: int = 0) -> Numbers:
    """Every bit of every batch, in a form that == compares."""
    return [
        (batch.images.flatten().tolist(), batch.texts.flatten().tolist(), dict(batch.bad), batch.seen)
        for batch in loader.batches(epoch, first_step)
    ]


def texts(loader: Loader, epoch: int, first_step: int = 0) -> list[list[int]]:
    return [batch.texts.flatten().tolist() for batch in loader.batches(epoch, first_step)]
