"""A checkpoint's scores on one test set, by LAION's clip_benchmark: zero-shot classification, and retrieval R@1/5/10.

In float32 whatever the run trains in: one that left float16 because it overflowed is not judged in float16.
"""

from __future__ import annotations

import dataclasses
import os
import tarfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from trainer.clip import misfit, sizes_of, weights_of
from trainer.compose import UNDECODABLE
from trainer.contract import TrainSpec
from trainer.evaluation import RETRIEVAL, SHARDS_FILE, SPLIT, TYPE_FILE, Result, folder_of
from trainer.models import register_models
from trainer.torch_engine import create, read
from trainer.unusable import Unusable

RECALL_AT = (1, 5, 10)
TOP = 5
UNSCORABLE = (*UNDECODABLE, tarfile.TarError)


class Scorer:
    """One model on this process's device. Unusable: the weights are not the model's."""

    def __init__(self, train: TrainSpec, checkpoint: Path, *, batch_size: int) -> None:
        register_models()
        self._device, self._batch_size = "cuda" if torch.cuda.is_available() else "cpu", batch_size
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = train.tf32
        spec = dataclasses.replace(train, grad_checkpointing=False, force_patch_dropout=None)  # training's alone
        self._model, _, self._transform = create(spec, torch.device(self._device))
        state = read(checkpoint)
        if "state_dict" not in state:
            raise Unusable(f"{checkpoint} holds no state_dict, which open_clip's checkpoints have")
        if problem := misfit(sizes_of(self._model), state):
            raise Unusable(f"{checkpoint} does not fit {train.model}: {problem}")
        self._model.load_state_dict(weights_of(state))
        self._model.eval()
        self._tokenizer = open_clip.get_tokenizer(train.model)

    def score(self, data: Path, dataset: str) -> Result:
        """A set that cannot be scored as a whole has no score: its damaged pictures would make it another set."""
        began, counted = time.monotonic(), Counted()
        metrics, error = {}, ""
        try:
            metrics = self._metrics(folder_of(data, dataset), dataset, counted)
        except UNSCORABLE as problem:
            traceback.print_exc()
            error = f"{type(problem).__name__}: {str(problem).partition(chr(10))[0]}"
        return Result(
            dataset=dataset,
            metrics=metrics,
            samples=counted.samples,
            seconds=round(time.monotonic() - began, 1),
            error=error,
        )

    def _metrics(self, folder: Path, dataset: str, counted: Counted) -> Mapping[str, float]:
        retrieval = kind(folder) == RETRIEVAL
        task = f"zeroshot_{'retrieval' if retrieval else 'classification'}"
        made = build_dataset(
            f"wds/{dataset}", root=str(folder), transform=self._transform, split=SPLIT, task=task, download=False
        )
        workers = min(shards_of(folder), len(os.sched_getaffinity(0))) if self._device == "cuda" else 0
        batches = counted.of(batched(made, self._batch_size, workers))
        return self._retrieval(batches) if retrieval else self._classification(batches, made)

    def _retrieval(self, batches: Iterable[Any]) -> Mapping[str, float]:
        """Of each caption, whether its picture is among the k nearest; of each picture, whether one of its captions."""
        found: dict[str, float] = zeroshot_retrieval.evaluate(
            self._model, batches, self._tokenizer, self._device, amp=False, recall_k_list=list(RECALL_AT)
        )
        return found

    def _classification(self, batches: Iterable[Any], made: Any) -> Mapping[str, float]:
        prompts = zeroshot_classification.zero_shot_classifier(
            self._model, self._tokenizer, made.classes, made.templates, self._device, amp=False
        )
        logits, labels = zeroshot_classification.run_classification(
            self._model, prompts, batches, self._device, amp=False
        )
        return several_labels(logits, labels) if labels.ndim == 2 else one_label(logits, labels)


def batched(made: Any, size: int, workers: int) -> Iterable[Any]:
    """(images, labels or lists of captions). Each shard is one worker's, so more workers than shards are an error."""
    return torch.utils.data.DataLoader(made.batched(size), batch_size=None, num_workers=workers)


class Counted:
    """How many pictures went by."""

    def __init__(self) -> None:
        self.samples = 0

    def of(self, loader: Iterable[Any]) -> Iterator[Any]:
        for images, labels in loader:
            self.samples += len(images)
            yield images, labels


def one_label(logits: Tensor, labels: Tensor) -> Mapping[str, float]:
    """[N, C] and [N]. clip_benchmark's three metrics; its own `accuracy` raises where numpy is 2.4 or newer."""
    hits = logits.topk(min(TOP, logits.shape[1]), dim=1).indices == labels[:, None]
    top5 = {"acc5": hits.any(dim=1).double().mean().item()} if logits.shape[1] >= TOP else {}
    recall = balanced_accuracy_score(labels.numpy(), logits.argmax(dim=1).numpy())
    return {"acc1": hits[:, 0].double().mean().item(), **top5, "mean_per_class_recall": float(recall)}


def several_labels(logits: Tensor, labels: Tensor) -> Mapping[str, float]:
    """[N, C] and [N, C] of zeros and ones."""
    average: Callable[[Tensor, Tensor], Tensor] = zeroshot_classification.average_precision_per_class
    return {"mean_average_precision": average(logits, labels).mean().item()}


def kind(folder: Path) -> str:
    """`retrieval`, `multilabel`, or empty: one class a picture."""
    file = folder / TYPE_FILE
    return file.read_text(encoding="utf-8").strip().lower() if file.exists() else ""


def shards_of(folder: Path) -> int:
    return int((folder / SPLIT / SHARDS_FILE).read_text(encoding="utf-8"))
