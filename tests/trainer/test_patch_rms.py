"""How far the patch embedding's gradient is from what AdamW expects of it: an early warning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.trainer.attempts import digits_spec, prepare, rehearsal_spec, run_here
from trainer.contract import ExitCode, Precision
from trainer.patch_rms import NONE, PatchRms, patch_embedding

BETA2, EPS = 0.98, 1e-6


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.Conv2d(2, 2, 1))


def test_it_is_the_root_of_the_mean_of_squared_gradients_by_their_moments_with_this_step_in_them() -> None:
    model = Towers()
    weight = patch_embedding(model)
    assert weight is model.visual[0].weight
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, BETA2), eps=EPS)
    measure = PatchRms(model, optimizer)
    moments = [0.0] * weight.numel()
    for step in range(1, 30):
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        weight.grad = gradient * (50.0 if step == 25 else 1.0)
        if step > 1:
            squares = [float(number) ** 2 for number in weight.grad.flatten()]
            after = [BETA2 * moment + (1 - BETA2) * square for moment, square in zip(moments, squares, strict=True)]
            ratios = [
                square / max(moment / (1 - BETA2**step), EPS**2) for square, moment in zip(squares, after, strict=True)
            ]
            expected = math.sqrt(sum(ratios) / len(ratios))
            assert float(measure()) == pytest.approx(expected, rel=1e-4)
            assert (expected > 2.3) == (step == 25)
        optimizer.step()
        moments = optimizer.state[weight]["exp_avg_sq"].flatten().double().tolist()


def test_there_is_none_before_the_first_step_nor_without_such_a_layer() -> None:
    model = Towers()
    measure = PatchRms(model, torch.optim.AdamW(model.parameters()))
    assert float(measure()) == NONE
    model.visual[0].weight.grad = torch.ones_like(model.visual[0].weight)
    assert float(measure()) == NONE
    blind = Towers()
    blind.visual = nn.Sequential(nn.Linear(2, 2))
    assert float(PatchRms(blind, torch.optim.AdamW(blind.parameters()))()) == NONE


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.AMP_FP16])
def test_a_run_tells_it_from_its_second_step_on(digits: Path, tmp_path: Path, precision: Precision) -> None:
    """In float16 too it is that of the gradient itself, not of the scaled one."""
    started = prepare(tmp_path / "run", 1, digits_spec(digits, precision=precision, epochs=2))
    assert run_here(started) == ExitCode.COMPLETED
    told = [event.facts.get("patch_rms_max") for event in started.events("progress")]
    assert told[0] is None
    assert all(0.1 < value < 3.0 for value in told[2:])


def test_a_rehearsal_has_no_patches(tmp_path: Path) -> None:
    started = prepare(tmp_path / "run", 1, rehearsal_spec())
    assert run_here(started) == ExitCode.COMPLETED
    assert not any("patch_rms_max" in event.facts for event in started.events("progress"))
