"""The sigmoid loss: open_clip's, with a bias that is trained, saved and resumed like any other weight."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.attempts import PATIENCE, digits_spec, prepare, run_here
from trainer.contract import ExitCode, Loss, Save

SIGLIP = Loss(siglip=True)

# One step of rank RANK of RANKS on its share of 8 pairs that are the same wherever they are looked at.
STEP = """
import json, sys
from pathlib import Path
import torch
from tests.trainer.attempts import digits_spec
from trainer.clip import ClipTrainee, loss_of
from trainer.contract import Loss
from trainer.models import register_models
from trainer.place import Place
from trainer.position import Position
from trainer.ranks import TorchRanks
from trainer.schedule import Geometry
from trainer.torch_engine import create
from types import SimpleNamespace

rank, count = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
spec, cpu = digits_spec(Path("/none"), loss=Loss(siglip=True)), torch.device("cpu")
ranks = TorchRanks(Place(rank, count, rank), cpu)
register_models()
torch.manual_seed(0)
model, *_ = create(spec, cpu)
images, texts = torch.randn(8, 3, 32, 32), torch.randint(1, 49407, (8, 16))
mine = slice(rank * 8 // count, (rank + 1) * 8 // count)
trainee = ClipTrainee(spec, model, loss_of(spec.loss, model, rank, count), cpu, rank, count)
batch = SimpleNamespace(images=images[mine], texts=texts[mine])
row = trainee.forward_backward(batch, Position(Geometry.of(spec, count)))
grads = [model.logit_bias.grad.item(), model.logit_scale.grad.item(), model.visual.proj.grad.norm().item()]
print(json.dumps([row[0].item(), *grads]))
ranks.close()
"""


def one_step(folder: Path, ranks: int) -> list[list[float]]:
    """Of each rank: its loss, and the gradients that it would step by."""
    environment = os.environ | {"CLIPCTL_RENDEZVOUS": str(folder / f"meet-{ranks}")}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", STEP, str(rank), str(ranks)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for rank in range(ranks)
    ]
    said = [process.communicate(timeout=PATIENCE)[0] for process in started]
    assert [process.returncode for process in started] == [0] * ranks
    return [json.loads(text.splitlines()[-1]) for text in said]


@pytest.mark.timeout(2 * PATIENCE)
def test_two_ranks_have_the_loss_and_the_gradients_of_one_with_both_their_batches(tmp_path: Path) -> None:
    (alone,) = one_step(tmp_path, 1)
    one, other = one_step(tmp_path, 2)
    assert one[1:] == other[1:], "also of the bias, which is no output of the wrapped model"
    assert [(one[0] + other[0]) / 2, *one[1:]] == pytest.approx(alone, rel=1e-4)


def test_it_begins_where_open_clip_does_and_a_resume_has_the_losses_of_an_undisturbed_run(
    digits: Path, tmp_path: Path
) -> None:
    train = digits_spec(digits, epochs=2, loss=SIGLIP, save=Save(steps=2))
    whole = prepare(tmp_path / "run", 1, train)
    assert run_here(whole) == ExitCode.COMPLETED
    first = whole.events("progress")[0].facts
    assert first["logit_scale"] == pytest.approx(10, rel=1e-6)
    assert first["loss"] == pytest.approx(10, abs=1.5), "a bias of -10 takes all pairs for strangers"
    resumed = prepare(tmp_path / "run", 2, train, parent=whole.parent("steps/step_7.pt"))
    assert run_here(resumed) == ExitCode.COMPLETED
    assert resumed.losses() == {step: losses for step, losses in whole.losses().items() if step > 7}
    weights: dict[str, Any] = torch.load(whole.folder / "checkpoints/epoch_2.pt")["state_dict"]
    assert -10 < weights["module.logit_bias"].item() < -9.9, "it was trained"
    assert math.isfinite(weights["module.logit_scale"].item())


def test_a_checkpoint_with_a_bias_is_none_for_the_contrastive_loss(digits: Path, tmp_path: Path) -> None:
    whole = prepare(tmp_path / "run", 1, digits_spec(digits, epochs=1, loss=SIGLIP))
    assert run_here(whole) == ExitCode.COMPLETED
    other = prepare(tmp_path / "run", 2, digits_spec(digits), parent=whole.parent("checkpoints/epoch_1.pt"))
    assert run_here(other) == ExitCode.REFUSED
    assert (
        other.events()[-1]
        .facts["error"]
        .endswith("does not fit ViT-digits-32: no logit_bias here; train.load_what_fits=true keeps what fits")
    )
