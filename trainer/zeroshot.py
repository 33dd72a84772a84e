"""Zero-shot accuracy: an image's class is the one whose prompts lie nearest to it. Each rank scores its share.

A rank that fails raises, and the others do not wait for it: there is no collective in here, but for a model of which
each rank holds a part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from trainer.compose import UNDECODABLE, Preprocess, open_image
from trainer.contract import ZeroShot
from trainer.members import IMAGE_SUFFIXES
from trainer.shards import DataError, Tally, expand, image_of, samples
from trainer.vocabulary import EvaluationError, vocabulary

LABEL_SUFFIX = "cls"
TOP = 5
Labelled = tuple[bytes, int, str]  # encoded image, class, where it is from
Images = tuple[Tensor, Tensor]  # [b, 3, H, W], their classes [b]
Gather = Callable[[Any], list[Any]]  # what every rank says, in the order of ranks


@dataclass(frozen=True)
class Counts:
    """Of one rank; sums over ranks are exact: no sample is in two shares."""

    top1: int
    top5: int
    samples: int


def zero_shot(
    model: Any,
    tokenizer: Callable[[list[str]], Tensor],
    preprocess: Preprocess,
    zeroshot: ZeroShot,
    *,
    rank: int,
    ranks: int,
    device: torch.device | str,
    autocast: Callable[[], AbstractContextManager[Any]],
    together: Gather | None = None,
) -> Counts:
    """`model` as open_clip builds it, without DDP around it. EvaluationError if any sample cannot be scored.

    `together`: of ranks that must all pass through the model or none, what each of them says.
    """
    texts = vocabulary(zeroshot.classes)
    hits = torch.zeros(2, dtype=torch.int64, device=device)  # top 1, top 5
    count = 0
    with _evaluating(model), torch.no_grad(), autocast():
        from open_clip import build_zero_shot_classifier

        classifier = build_zero_shot_classifier(model, tokenizer, texts.names, texts.templates, device=device)
        batches = _batches(share(zeroshot, len(texts.names), rank, ranks), preprocess, zeroshot.batch_size)
        if together is not None:
            batches = _in_step(batches, together, _blank(preprocess))
        for images, labels in batches:
            logits = model.encode_image(images.to(device), normalize=True) @ classifier
            best = logits.topk(min(TOP, len(texts.names)), dim=1).indices
            right = best == labels.to(device)[:, None]
            hits += torch.stack([right[:, 0].sum(), right.sum()])
            count += len(labels)
    top1, top5 = hits.tolist()
    return Counts(top1, top5, count)


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _batches(share: Iterator[Labelled], preprocess: Preprocess, size: int) -> Iterator[Images]:
    """With b <= size."""
    while chunk := list(itertools.islice(share, size)):
        images = [_decode(content, where, preprocess) for content, _, where in chunk]
        yield torch.stack(images), torch.tensor([label for _, label, _ in chunk])


def _in_step(batches: Iterator[Images], together: Gather, blank: Images) -> Iterator[Images]:
    """As many on every rank: who has no more takes part with `blank`. What fails on one of them fails on all."""
    while True:
        batch, error = None, None
        try:
            batch = next(batches, None)
        except EvaluationError as problem:
            error = str(problem)
        said = together((batch is not None, error))
        errors = [text for _, text in said if text]
        if errors:
            raise EvaluationError(errors[0])
        if not any(more for more, _ in said):
            return
        yield batch or blank


def _blank(preprocess: Preprocess) -> Images:
    """An image without a label: it is right about nothing, and no sample."""
    return preprocess(Image.new("RGB", (1, 1)))[None], torch.empty(0, dtype=torch.int64)


def _decode(content: bytes, where: str, preprocess: Preprocess) -> Tensor:
    try:
        return preprocess(open_image(content))
    except UNDECODABLE as error:
        raise EvaluationError(f"{where}: {error}") from error


def share(zeroshot: ZeroShot, classes: int, rank: int, ranks: int) -> Iterator[Labelled]:
    """The samples that this rank scores. An unusable one is an error: without it the result means something else."""
    try:
        folder = Path(zeroshot.data)
        if folder.is_dir():
            yield from _from_folder(folder, classes, rank, ranks)
        else:
            yield from _from_shards(expand(zeroshot.data), classes, rank, ranks)
    except (OSError, DataError) as error:
        raise EvaluationError(f"zeroshot.data: {error}") from error


def _from_folder(folder: Path, classes: int, rank: int, ranks: int) -> Iterator[Labelled]:
    """ImageNet's layout: one folder a class, in alphabetical order."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    if len(folders) != classes:
        raise EvaluationError(f"{folder}: {len(folders)} class folders, expected {classes}")
    suffixes = {f".{suffix}" for suffix in IMAGE_SUFFIXES}
    files = (
        (path, label)
        for label, each in enumerate(folders)
        for path in sorted(each.rglob("*"))
        if path.suffix.lower() in suffixes
    )
    for path, label in itertools.islice(files, rank, None, ranks):
        yield path.read_bytes(), label, str(path)


def _from_shards(shards: list[str], classes: int, rank: int, ranks: int) -> Iterator[Labelled]:
    """Whole shards are dealt out where there are enough of them; else every rank reads all and takes its samples."""
    if len(shards) >= ranks:
        yield from _labelled(shards[rank::ranks], classes)
    else:
        yield from itertools.islice(_labelled(shards, classes), rank, None, ranks)


def _labelled(shards: Iterable[str], classes: int) -> Iterator[Labelled]:
    tally = Tally()
    for shard in shards:
        for sample in samples(shard, tally):
            where = f"{shard}: sample {sample['__key__']}"
            image = image_of(sample)
            label = sample.get(LABEL_SUFFIX, b"").strip()
            if image is None or not label.isdigit() or int(label) >= classes:
                raise EvaluationError(f"{where} has no image, or no class from 0 to {classes - 1}")
            yield image, int(label), where
        if tally.bad:
            raise EvaluationError(f"{shard} is damaged or missing")
