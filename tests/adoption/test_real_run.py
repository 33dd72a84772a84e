"""open_clip_train itself, killed in its third epoch; then clipctl takes over and trains on, for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from clipctl.layout import RunFolder
from tests.cli.conftest import Clipctl
from tests.trainer.attempts import PATIENCE
from tests.trainer.test_open_clip import OPEN_CLIP_TRAIN
from trainer.contract import Event, loads

ARGUMENTS = (
    "--model ViT-digits-32 --device cpu --dataset-type webdataset --dataset-resampled --train-num-samples 80"
    " --batch-size 16 --workers 1 --precision amp --lr 1e-3 --warmup 5 --epochs 6 --log-every-n-steps 1 --beta2 0.95"
)


@pytest.fixture(scope="session")
def killed_run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its experiment folder: two epochs are done."""
    folder = tmp_path_factory.mktemp("open_clip")
    more = ["--train-data", f"{digits}/train-{{000000..000007}}.tar", "--logs", f"{folder}/logs", "--name", "theirs"]
    log = folder / "logs/theirs/out.log"
    with open(folder / "printed", "wb") as printed:
        process = subprocess.Popen(
            [sys.executable, "-c", OPEN_CLIP_TRAIN, *ARGUMENTS.split(), *more],
            cwd=folder,
            stdout=printed,
            stderr=printed,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            end = time.monotonic() + PATIENCE
            while not (log.exists() and "Train Epoch: 2 " in log.read_text()):
                assert process.poll() is None and time.monotonic() < end, (folder / "printed").read_text()[-3000:]
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, 9)
            process.wait()
    return folder / "logs/theirs"


def updates(checkpoint: dict[str, Any]) -> float:
    """Those that the optimizer has made of each tensor."""
    [steps] = {float(state["step"]) for state in checkpoint["optimizer"]["state"].values()}
    return steps


@pytest.mark.timeout(3 * PATIENCE)
def test_a_run_of_open_clip_train_goes_on_as_one_of_ours(
    killed_run: Path, digits: Path, clipctl: Clipctl, process: Clipctl, home: Path
) -> None:
    said = clipctl("adopt", str(killed_run), "--cluster", "local", "--name", "taken")
    assert said.code == 0, said.err
    assert "ended   lost: its log ends without a word" in said.out

    folder = RunFolder.of(home, "taken")
    train = json.loads(folder.run.read_text())["spec"]["train"]
    assert train["data"]["train_data"] == f"{digits}/train-{{000000..000007}}.tar"
    assert (train["optim"]["beta2"], train["optim"]["lr"], train["precision"]) == (0.95, 1e-3, "amp_fp16")
    events = [loads(Event, line) for line in folder.attempt(1).events.read_text().splitlines()]
    losses = [event.facts["loss"] for event in events if event.kind == "progress"]
    assert len(losses) >= 11 and all(1 < loss < 4 for loss in losses)
    [run] = json.loads(clipctl("status", "taken", "--json").out)["runs"]
    assert (run["state"], run["progress"]["epoch"]) == ("stopped", 3)

    # open_clip's run is gone; what was taken over is not.
    theirs = torch.load(killed_run / "checkpoints/epoch_2.pt")
    shutil.move(killed_run, killed_run.with_name("moved"))
    resume = ("resume", "taken", "--epoch", "3", "--precision", "fp32", "--set", "train.epochs=3", "-y", "--follow")
    went_on = process(*resume, OMP_NUM_THREADS="1")
    shutil.move(killed_run.with_name("moved"), killed_run)
    assert went_on.code == 0, went_on.err
    assert "train.precision  amp_fp16 -> fp32" in went_on.out

    events = [loads(Event, line) for line in folder.attempt(2).events.read_text().splitlines()]
    steps = [event for event in events if event.kind == "progress"]
    assert [event.step for event in steps] == [11, 12, 13, 14, 15]
    assert steps[-1].samples_seen == 3 * 80
    [continued] = [event for event in events if event.kind == "continued"]
    assert abs(continued.facts["before"]["logit_scale"] - continued.facts["after"]["logit_scale"]) < 0.01
    ours = torch.load(folder.attempt(2).checkpoints / "epoch_3.pt")
    assert theirs["epoch"] == 2 and ours["epoch"] == 3
    assert updates(theirs) <= 10, "float16's first steps may be left out"
    assert updates(ours) == updates(theirs) + 5

    [run] = json.loads(clipctl("status", "taken", "--json").out)["runs"]
    assert (run["state"], run["attempts"]) == ("completed", 2)
    assert clipctl("db", "check").code == 0
    told = clipctl("history", "taken").out
    assert "taken over" in told and "goes on" in told and "precision amp_fp16 -> fp32" in " ".join(told.split())
