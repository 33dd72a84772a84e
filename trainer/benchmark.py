"""An evaluation job: `python -P -m trainer.benchmark FOLDER`, FOLDER being evals/<nonce> of a run.

One process on one device. What a set gave is on disk before the next one begins; one that cannot be scored is told and
costs only itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from trainer.contract import SCHEMA, ExitCode, loads
from trainer.evaluation import EVALUATION_FILE, Evaluation, Result, write_results
from trainer.origin import refuse_foreign
from trainer.unusable import Unusable
from trainer.verify import damage, read_manifest

# Compute nodes have no network, and a library that tries it there hangs until it gives up.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TQDM_DISABLE": "1"}


def main(arguments: list[str]) -> int:
    refuse_foreign()
    if len(arguments) != 1:
        print("usage: python -P -m trainer.benchmark FOLDER", file=sys.stderr)
        return ExitCode.REFUSED
    os.environ.update(OFFLINE)  # before anything is imported that reads them
    try:
        return benchmark(Path(arguments[0]).resolve())
    except Unusable as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.REFUSED


def benchmark(folder: Path) -> int:
    """ExitCode.CRASHED where a set could not be scored: the log says why. Unusable: nothing can be."""
    evaluation = read(folder)
    checkpoint = folder.parent.parent / evaluation.checkpoint
    check(checkpoint, evaluation.digest)
    try:
        from trainer.scores import Scorer
    except ModuleNotFoundError as error:
        raise Unusable(f"{error.name} is not installed for {sys.executable}: pip install 'clipctl[eval]'") from error
    scorer = Scorer(evaluation.train, checkpoint, batch_size=evaluation.batch_size)
    results: list[Result] = []
    for dataset in evaluation.datasets:
        results.append(scorer.score(Path(evaluation.data), dataset))
        write_results(folder, results)
        print(_line(results[-1]), flush=True)
    return ExitCode.CRASHED if any(result.error for result in results) else ExitCode.COMPLETED


def read(folder: Path) -> Evaluation:
    try:
        evaluation = loads(Evaluation, (folder / EVALUATION_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise Unusable(f"{folder / EVALUATION_FILE}: {error}") from error
    if evaluation.schema > SCHEMA:
        raise Unusable(f"{folder} was written by a newer clipctl (schema {evaluation.schema} > {SCHEMA})")
    return evaluation


def check(checkpoint: Path, digest: str) -> None:
    """Every byte is read before any of it is believed. Unusable: it is not the file that was meant, or not whole."""
    if not checkpoint.exists():
        raise Unusable(f"{checkpoint} is not there any more: training keeps the newest ones (train.save.keep_last)")
    try:
        manifest = read_manifest(checkpoint)
    except ValueError as error:
        raise Unusable(f"{checkpoint}: its manifest cannot be read: {error}") from error
    if manifest is None or manifest.digest != digest:
        raise Unusable(f"{checkpoint} is not the checkpoint that was to be evaluated (digest {digest})")
    if problem := damage(checkpoint, manifest):
        raise Unusable(f"{checkpoint}: {problem}")


def _line(result: Result) -> str:
    said = result.error or ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
    return f"{result.dataset}: {said} ({result.samples} samples, {result.seconds:.0f} s)"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
