"""What an evaluation job is asked, and what it leaves, for clipctl and for `trainer.benchmark`. Standard library only.

One folder an evaluation, `evals/<nonce>` of the run's: no part of any attempt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainer.contract import SCHEMA, TrainSpec, dumps, loads, write_atomic

EVALUATIONS_FOLDER = "evals"  # in the run's folder
EVALUATION_FILE = "evaluation.json"  # by clipctl, before the job is submitted; never changed
RESULTS_FILE = "results.jsonl"  # by the job, a line for each set; replaced when another one is done
SPLIT = "test"
TYPE_FILE, SHARDS_FILE = "dataset_type.txt", "nshards.txt"
CLASSES_FILE, TEMPLATES_FILE = "classnames.txt", "zeroshot_classification_templates.txt"
RETRIEVAL = "retrieval"  # what TYPE_FILE says of pictures with captions; without the file it is classification


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """`evaluation.json`: one checkpoint on some test sets."""

    run: str
    nonce: str
    epoch: int  # epochs done: epoch_69.pt
    attempt: int  # that wrote the checkpoint
    checkpoint: str  # relative to the run's folder
    digest: str  # of the file
    train: TrainSpec  # of that attempt: which model, in which shape
    suite: str
    datasets: tuple[str, ...]
    data: str  # the folder that holds them
    batch_size: int
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Result:
    """A line of `results.jsonl`: one set. Metrics by clip_benchmark's names, as shares of 1."""

    dataset: str
    metrics: Mapping[str, float] = field(default_factory=dict)  # none: `error` says why
    samples: int = 0  # pictures
    seconds: float = 0.0
    error: str = ""
    schema: int = SCHEMA


def folder_of(data: Path, dataset: str) -> Path:
    """Where a set lies, by the name that clip_benchmark's own have on their hub: vtab/dtd in wds_vtab-dtd."""
    return data / f"wds_{dataset.replace('/', '-')}"


def write_results(folder: Path, results: Iterable[Result]) -> None:
    """All of them so far, in place of those that were there: whoever reads meets whole lines."""
    write_atomic(folder / RESULTS_FILE, "".join(f"{dumps(result)}\n" for result in results))


def parsed(text: str | bytes) -> tuple[Result, ...]:
    """The lines of `results.jsonl`. ValueError: it is not what a job writes."""
    results = tuple(loads(Result, line) for line in text.splitlines())
    for result in results:
        if not isinstance(result.metrics, dict) or not all(map(_is_number, result.metrics.values())):
            raise ValueError(f"{result.dataset}: metrics that are no numbers: {result.metrics!r:.80}")
    return results


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
