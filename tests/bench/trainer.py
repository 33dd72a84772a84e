"""Our trainer beside open_clip_train, unchanged, on the same shards and model: `python -m tests.bench.trainer`.

Each pair runs one after the other, so that a busy machine slows both; what counts is the ratio of a pair, printed as
the median of all pairs with the least and the largest one. `samples/s`: from the second step to the last, one data
worker, read end to end from shards. `first step`: from the start of the process until a step is done. `after the
imports`: the same without the time that the imports took. `memory`: the largest resident size of the rank's process.
`stop`: how long training stands for a checkpoint.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from PIL import Image

from tests.trainer.attempts import prepare
from tests.trainer.shard_files import write_shard
from trainer.contract import NONCE_VARIABLE, Data, Loss, Optim, Precision, TrainSpec

ROOT = Path(__file__).parents[2]
SHARDS, PAIRS_A_SHARD, SIDE = 8, 128, 256  # JPEGs of quality 90, about 20 kB each
TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 128, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


@dataclass(frozen=True)
class Case:
    name: str
    model: str
    batch_size: int
    steps: int
    precision: str = "fp32"


CASES = (
    Case("tiny", "ViT-tiny-64", 32, 60),
    Case("tiny-bf16", "ViT-tiny-64", 32, 60, "amp_bf16"),
    Case("b32", "ViT-B-32", 16, 10),
    Case("b32-bf16", "ViT-B-32", 16, 10, "amp_bf16"),
)


@dataclass(frozen=True)
class Figures:
    """Of one run; seconds but for samples a second, and MB."""

    samples: float
    first_step: float
    after_imports: float
    memory: float
    stop: float


# What each is run through: it says how long the imports took, theirs also how long training stood for a checkpoint.
OURS = """
import sys, time
began = time.perf_counter()
from trainer import garbage
garbage.put_off()  # as trainer.__main__ does
import trainer.rank, trainer.torch_engine, trainer.provenance, trainer.claim
print("imports", time.perf_counter() - began, flush=True)
from pathlib import Path
import open_clip
open_clip.add_model_config(Path(sys.argv[2]))
from trainer.__main__ import main
sys.exit(main(sys.argv[1:2]))
"""
THEIRS = """
import sys, time
began = time.perf_counter()
import torch, open_clip, open_clip_train.main
from pathlib import Path
print("imports", time.perf_counter() - began, flush=True)
save = torch.save
def timed(*arguments, **options):
    began = time.perf_counter()
    save(*arguments, **options)
    print("stop", time.perf_counter() - began, flush=True)
torch.save = timed
open_clip.add_model_config(Path(sys.argv[1]))
open_clip_train.main.main(sys.argv[2:])
"""


def make_shards(folder: Path) -> str:
    """Photographs they are not: smooth noise, which a JPEG decoder has as much work with."""
    draw = random.Random(7)
    words = ["a", "photo", "of", "the", "old", "red", "house", "by", "sea", "with", "dog", "and", "boat", "at", "night"]
    for shard in range(SHARDS):
        samples = {}
        for number in range(PAIRS_A_SHARD):
            noise = Image.frombytes("RGB", (64, 64), draw.randbytes(64 * 64 * 3))
            jpeg = io.BytesIO()
            noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(jpeg, "JPEG", quality=90)
            text = " ".join(draw.choices(words, k=draw.randint(5, 16)))
            samples[f"{shard:03d}{number:05d}"] = {"jpg": jpeg.getvalue(), "txt": text.encode()}
        write_shard(folder / f"{shard:05d}.tar", samples)
    return f"{folder}/{{00000..{SHARDS - 1:05d}}}.tar"


def ours(case: Case, shards: str, models: Path, scratch: Path) -> Figures:
    train = TrainSpec(
        model=case.model,
        data=Data(train_data=shards, train_num_samples=case.batch_size * case.steps, dataset_resampled=True, workers=1),
        epochs=1,
        batch_size=case.batch_size,
        precision=Precision(case.precision),
        log_every_n_steps=1,
        optim=Optim(lr=1e-3, warmup=10),
        loss=Loss(local_loss=True, gather_with_grad=True),
    )
    started = prepare(scratch / f"ours-{secrets.token_hex(4)}", 1, train)
    began = time.time()
    command = [sys.executable, "-P", "-c", OURS, str(started.folder), str(models)]
    environ = os.environ | {NONCE_VARIABLE: started.nonce, "PYTHONPATH": str(ROOT)}
    said, memory = run(command, environ, scratch)
    progress = started.events("progress")
    seconds = [event.facts["seconds"] for event in progress]
    first = progress[0].time - seconds[1] - began  # it is told when the next one is done
    imports = float(re.findall(r"^imports (\S+)", said, re.M)[0])
    stop = started.events("checkpoint")[0].facts["stood_seconds"]
    return Figures(speed(case, seconds), first, first - imports, memory, stop)


def theirs(case: Case, shards: str, models: Path, scratch: Path) -> Figures:
    samples = case.batch_size * case.steps
    arguments = (
        f"--model {case.model} --device cpu --precision {case.precision} --batch-size {case.batch_size} --workers 1 "
        f"--train-data {shards} --dataset-type webdataset --dataset-resampled --train-num-samples {samples} --epochs 1 "
        f"--lr 1e-3 --warmup 10 --local-loss --gather-with-grad --log-every-n-steps 1 --report-to tensorboard "
        f"--logs {scratch}/logs --name {secrets.token_hex(4)}"
    )
    arrived: list[float] = []
    began = time.time()
    command = [sys.executable, "-c", THEIRS, str(models), *arguments.split()]
    said, memory = run(command, dict(os.environ), scratch, lambda: arrived.append(time.time() - began))
    seconds = [float(found) for found in re.findall(r"Batch \(t\): (\S+),", said)]
    imports = float(re.findall(r"^imports (\S+)", said, re.M)[0])
    stop = float(re.findall(r"^stop (\S+)", said, re.M)[0])
    return Figures(speed(case, seconds), arrived[0], arrived[0] - imports, memory, stop)


def run(
    command: list[str], environ: dict[str, str], scratch: Path, stepped: Callable[[], None] | None = None
) -> tuple[str, float]:
    """What it printed, and the largest resident size of its process in MB; `stepped`: called at each step's line."""
    process = subprocess.Popen(
        command, env=environ, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = []
    with process.stdout:
        for line in process.stdout:
            lines.append(line)
            if stepped and "Train Epoch: 0 [" in line:
                stepped()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    said = "".join(lines)
    if process.returncode:
        raise SystemExit(said[-3000:])
    return said, usage.ru_maxrss / 1024


def speed(case: Case, seconds: list[float]) -> float:
    assert len(seconds) == case.steps, f"{len(seconds)} steps were told, not {case.steps}"
    return case.batch_size * (len(seconds) - 1) / sum(seconds[1:])


LABELS = {
    "samples": "samples/s",
    "first_step": "first step, s",
    "after_imports": "after the imports, s",
    "memory": "memory, MB",
    "stop": "stop, s",
}


def report(case: Case, pairs: list[tuple[Figures, Figures]]) -> None:
    print(f"{case.name}: {case.model}, {case.precision}, batch {case.batch_size}, {len(pairs)} pairs")
    for field in fields(Figures):
        values = [(getattr(one, field.name), getattr(other, field.name)) for one, other in pairs]
        mine, other = (statistics.median(column) for column in zip(*values, strict=True))
        ratios = sorted(left / right for left, right in values)
        spread = f"{ratios[0]:.2f}..{ratios[-1]:.2f}"
        print(
            f"  {LABELS[field.name]:<22}ours {mine:<9.4g} theirs {other:<9.4g} "
            f"ratio {statistics.median(ratios):.2f} ({spread})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cases", nargs="*", default=[case.name for case in CASES], help="all, if none is named")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        models = scratch / "models"
        models.mkdir()
        (models / "ViT-tiny-64.json").write_text(json.dumps(TINY))
        (scratch / "shards").mkdir()
        shards = make_shards(scratch / "shards")
        for case in CASES:
            if case.name in options.cases:
                runs = (ours, theirs)
                pairs = [tuple(each(case, shards, models, scratch) for each in runs) for _ in range(options.pairs)]
                report(case, pairs)


if __name__ == "__main__":
    main()
