"""The way to open_clip_train and back, with open_clip_train itself, unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.trainer.attempts import PATIENCE, digits_spec, prepare, run_here
from trainer.contract import ExitCode, Parent

# It knows the demo's model only when told where its configuration lies.
OPEN_CLIP_TRAIN = """
import sys, open_clip, trainer.models
trainer.models.register_models()
from open_clip_train.main import main
main(sys.argv[1:])
"""


def scalars(folder: Path) -> set[str]:
    """What TensorBoard would show."""
    board = EventAccumulator(os.fspath(folder))
    board.Reload()
    return set(board.Tags()["scalars"])


def open_clip_train(folder: Path, digits: Path, *options: str) -> str:
    """Epochs of 5 steps of 16, alone on the CPU, into folder/logs/theirs; returns its log."""
    arguments = (
        f"--model ViT-digits-32 --device cpu --precision fp32 --train-data {digits}/train-{{000000..000007}}.tar "
        "--dataset-type webdataset --dataset-resampled --train-num-samples 80 --batch-size 16 --workers 1 "
        f"--lr 1e-3 --warmup 5 --logs {folder}/logs --name theirs --log-every-n-steps 1 --report-to tensorboard"
    )
    command = [sys.executable, "-c", OPEN_CLIP_TRAIN, *arguments.split(), *options]
    done = subprocess.run(
        command, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.timeout(2 * PATIENCE)
def test_a_checkpoint_of_ours_resumes_in_open_clip_train_and_one_of_its_own_in_ours(
    digits: Path, tmp_path: Path
) -> None:
    first = prepare(tmp_path / "run", 1, digits_spec(digits, epochs=1))
    assert run_here(first) == ExitCode.COMPLETED
    ours = first.folder / "checkpoints/epoch_1.pt"

    log = open_clip_train(tmp_path, digits, "--epochs", "2", "--resume", str(ours))
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
