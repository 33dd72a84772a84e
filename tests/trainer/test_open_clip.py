"""The way to open_clip_train and back, with open_clip_train itself, unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.trainer.attempts import PATIENCE, digits_spec, prepare, run_here
from trainer.contract import ExitCode, Parent, Precision
from trainer.place import Place
from trainer.torch_engine import equip, read

# It knows the demo's model only when told where its configuration lies, and hands device_ids to DDP, which refuses them
# on CPUs.
OPEN_CLIP_TRAIN = """
import sys, torch, open_clip, trainer.models
trainer.models.register_models()
class OnCPU(torch.nn.parallel.DistributedDataParallel):
    def __init__(self, module, device_ids, **options):
        super().__init__(module, **options)
torch.nn.parallel.DistributedDataParallel = OnCPU
from open_clip_train.main import main
main(sys.argv[1:])
"""


def scalars(folder: Path) -> set[str]:
    """What TensorBoard would show."""
    board = EventAccumulator(os.fspath(folder))
    board.Reload()
    return set(board.Tags()["scalars"])


def open_clip_train(folder: Path, digits: Path, *options: str, ranks: int = 1) -> str:
    """Epochs of 5 steps of 16, on the CPU, into folder/logs/theirs; returns the log of its rank 0."""
    arguments = (
        f"--model ViT-digits-32 --device cpu --train-data {digits}/train-{{000000..000007}}.tar "
        f"--dataset-type webdataset --dataset-resampled --train-num-samples 80 --batch-size {16 // ranks} --workers 1 "
        f"--lr 1e-3 --warmup 5 --logs {folder}/logs --name theirs --log-every-n-steps 1 --report-to tensorboard"
    )
    command = [sys.executable, "-c", OPEN_CLIP_TRAIN, *arguments.split(), *options]
    processes = [
        subprocess.Popen(
            [*command, "--dist-url", f"file://{folder}/meet?rank={rank}&world_size={ranks}"],
            cwd=folder,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(ranks)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        logs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * ranks, "\n".join(log[-3000:] for log in logs)
    return logs[0]


@pytest.mark.timeout(2 * PATIENCE)
def test_a_checkpoint_of_ours_resumes_in_open_clip_train_and_one_of_its_own_in_ours(
    digits: Path, tmp_path: Path
) -> None:
    first = prepare(tmp_path / "run", 1, digits_spec(digits, epochs=1))
    assert run_here(first) == ExitCode.COMPLETED
    ours = first.folder / "checkpoints/epoch_1.pt"

    log = open_clip_train(tmp_path, digits, "--precision", "fp32", "--epochs", "2", "--resume", str(ours))
    assert "resuming checkpoint" in log
    assert "Start epoch 1" in log  # it counts from 0: the second one

    theirs = tmp_path / "logs/theirs/checkpoints/epoch_2.pt"
    second = prepare(tmp_path / "run", 2, digits_spec(digits), parent=Parent(path=str(theirs)))
    assert run_here(second) == ExitCode.COMPLETED
    assert sorted(second.losses()) == [11, 12, 13, 14, 15]
    assert second.events("progress")[0].samples_seen == 176
    assert "samples seen are computed" in second.events("notice")[0].facts["text"]
    updates = torch.load(second.folder / "checkpoints/epoch_3.pt")["optimizer"]["state"].values()
    assert scalars(second.folder / "tensorboard") == scalars(tmp_path / "logs/theirs/tensorboard")
    assert {float(state["step"]) for state in updates} == {15.0}, "moments went both ways: 5 ours, 5 theirs, 5 ours"


def scaler(path: Path) -> tuple[float, int]:
    """The loss scale, and the good steps since it changed."""
    state = torch.load(path)["scaler"]
    return state["scale"], state["_growth_tracker"]


@pytest.mark.timeout(2 * PATIENCE)
def test_in_float16_the_loss_scale_goes_both_ways_and_so_do_weights_that_were_data_parallel(
    digits: Path, tmp_path: Path
) -> None:
    train = digits_spec(digits, epochs=1, precision=Precision.AMP_FP16)
    first = prepare(tmp_path / "run", 1, train)
    assert run_here(first) == ExitCode.COMPLETED
    ours = first.folder / "checkpoints/epoch_1.pt"
    assert scaler(ours) == (65536.0, 5)

    options = "--precision amp --local-loss --gather-with-grad --epochs 2 --resume"
    assert "resuming checkpoint" in open_clip_train(tmp_path, digits, *options.split(), str(ours), ranks=2)
    theirs = tmp_path / "logs/theirs/checkpoints/epoch_2.pt"
    assert all(name.startswith("module.") for name in torch.load(theirs)["state_dict"])
    assert scaler(theirs) == (65536.0, 10)

    second = prepare(tmp_path / "run", 2, replace(train, epochs=3), parent=Parent(path=str(theirs)))
    assert run_here(second) == ExitCode.COMPLETED
    assert sorted(second.losses()) == [11, 12, 13, 14, 15]
    assert scaler(second.folder / "checkpoints/epoch_3.pt") == (65536.0, 15)


def test_open_clip_loads_a_checkpoint_of_ours_as_pretrained_weights(digits: Path, tmp_path: Path) -> None:
    spec = digits_spec(digits, epochs=1)
    started = prepare(tmp_path / "run", 1, spec)
    assert run_here(started) == ExitCode.COMPLETED
    path = started.folder / "checkpoints/epoch_1.pt"
    loaded, _, _ = open_clip.create_model_and_transforms(spec.model, pretrained=str(path))
    ours = equip(spec, Place(0, 1, 0))
    ours.load(read(path))
    images, texts = torch.randn(4, 3, 32, 32), open_clip.get_tokenizer(spec.model)(["zero", "one", "two", "three"])
    with torch.no_grad():
        outputs = [model.eval()(images, texts) for model in (loaded, ours.trainee.model)]
    for theirs, expected in zip(*outputs, strict=True):
        assert torch.equal(theirs, expected)
