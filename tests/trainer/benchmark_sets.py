"""Small test sets in clip_benchmark's layout, and a checkpoint to score on them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.trainer.attempts import digits_spec
from tests.trainer.shard_files import write_shard
from trainer.contract import CheckpointManifest, Precision, Stream, TrainSpec, dumps
from trainer.evaluation import CLASSES_FILE, EVALUATION_FILE, TEMPLATES_FILE, TYPE_FILE, Evaluation, folder_of
from trainer.verify import digest, manifest_path

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("a handwritten {c}", "the number {c} on paper")
PROMPTS = {CLASSES_FILE: "\n".join(NAMES), TEMPLATES_FILE: "\n".join(TEMPLATES)}
Sample = Mapping[str, bytes]


def digits_of(digits: Path) -> list[tuple[bytes, int]]:
    """(PNG, digit) of the pictures that the demo holds out."""
    with tarfile.open(digits / "test.tar") as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    keys = sorted({name.partition(".")[0] for name in found})
    return [(found[f"{key}.png"], int(found[f"{key}.cls"])) for key in keys]


def write_set(data: Path, name: str, samples: Sequence[Sample], *, shards: int = 1, files: Mapping[str, str]) -> Path:
    folder = folder_of(data, name)
    (folder / "test").mkdir(parents=True)
    for number in range(shards):
        share = {f"{index:05d}": sample for index, sample in enumerate(samples) if index % shards == number}
        write_shard(folder / "test" / f"{number}.tar", share)
    (folder / "test" / "nshards.txt").write_text(f"{shards}\n")
    for file, text in files.items():
        (folder / file).write_text(f"{text}\n")
    return folder


def classified(data: Path, name: str, pictures: Sequence[tuple[bytes, int]], *, shards: int = 2) -> Path:
    samples = [{"png": png, "cls": str(digit).encode()} for png, digit in pictures]
    return write_set(data, name, samples, shards=shards, files=PROMPTS)


def several(data: Path, name: str, pictures: Sequence[tuple[bytes, int]]) -> list[list[int]]:
    """Each picture is of its digit's class, and of the next one's if it is even; these labels."""
    labels = [[int(i == digit or (digit % 2 == 0 and i == digit + 1)) for i in range(10)] for _, digit in pictures]
    samples = [{"png": png, "npy": _npy(row)} for (png, _), row in zip(pictures, labels, strict=True)]
    write_set(data, name, samples, files={TYPE_FILE: "multilabel", **PROMPTS})
    return labels


def captioned(data: Path, name: str, pictures: Sequence[tuple[bytes, int]]) -> list[list[str]]:
    """As COCO: one to three captions a picture, no two alike; these captions."""
    captions = [
        [f"{NAMES[digit]} number {index} of way {way}" for way in range(1 + index % 3)]
        for index, (_, digit) in enumerate(pictures)
    ]
    samples = [{"png": png, "txt": "\n".join(own).encode()} for (png, _), own in zip(pictures, captions, strict=True)]
    write_set(data, name, samples, files={TYPE_FILE: "retrieval"})
    return captions


def _npy(row: list[int]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(row))
    return buffer.getvalue()


def write_checkpoint(path: Path, spec: TrainSpec, pictures: Sequence[tuple[bytes, int]]) -> CheckpointManifest:
    """Random weights, as data-parallel training saves them, and the manifest beside them.

    To random weights all digits look alike. What they have in common is taken out, so that each is its own.
    """
    import torch

    from trainer.compose import open_image
    from trainer.models import register_models
    from trainer.torch_engine import create

    register_models()
    torch.manual_seed(5)
    model, _, transform = create(spec, torch.device("cpu"))
    with torch.no_grad():
        alike = model.eval().encode_image(torch.stack([transform(open_image(png)) for png, _ in pictures])).mean(dim=0)
        alike /= alike.norm()
        model.visual.proj -= (model.visual.proj @ alike)[:, None] * alike
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, "name": "r", "state_dict": state}, path)
    return publish(path)


def publish(path: Path) -> CheckpointManifest:
    """The manifest of the file as it is now."""
    manifest = CheckpointManifest(
        file=path.name, size=path.stat().st_size, digest=digest(path), run="r", attempt=1, epochs_done=3, step=15,
        step_in_epoch=0, samples_seen=240, loss=1.0, finite=True, precision=Precision.FP32, time=0.0,
        stream=Stream(batch_size=16, ranks=1, workers=0),
    )  # fmt: skip
    manifest_path(path).write_text(dumps(manifest))
    return manifest


def asked(root: Path, data: Path, *datasets: str, digits: Path) -> Path:
    """evals/<nonce> of a run below `root`, whose epoch_3.pt is to be scored on `datasets`."""
    run, spec = root / "runs" / "r", digits_spec(digits)
    checkpoint = run / "attempts" / "1" / "checkpoints" / "epoch_3.pt"
    manifest = write_checkpoint(checkpoint, spec, digits_of(digits)[::10])
    folder = run / "evals" / "n1"
    folder.mkdir(parents=True)
    evaluation = Evaluation(
        run="r", nonce="n1", epoch=3, attempt=1, checkpoint=str(checkpoint.relative_to(run)), digest=manifest.digest,
        train=spec, suite="small", datasets=datasets, data=str(data), batch_size=16,
    )  # fmt: skip
    (folder / EVALUATION_FILE).write_text(dumps(evaluation))
    return folder
