"""open_clip's switches on a model: what is random in them comes again, what cannot be had is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.trainer.attempts import digits_spec, prepare, run_here
from trainer.contract import ExitCode, Save
from trainer.torch_engine import create
from trainer.unusable import Unusable


def test_a_resume_drops_the_patches_that_an_undisturbed_run_would_have_dropped(digits: Path, tmp_path: Path) -> None:
    train = digits_spec(digits, epochs=2, force_patch_dropout=0.5, grad_checkpointing=True, save=Save(steps=2))
    whole = prepare(tmp_path / "run", 1, train)
    assert run_here(whole) == ExitCode.COMPLETED
    resumed = prepare(tmp_path / "run", 2, train, parent=whole.parent("steps/step_7.pt"))
    assert run_here(resumed) == ExitCode.COMPLETED
    assert resumed.losses() == {step: losses for step, losses in whole.losses().items() if step > 7}


def test_a_tower_without_patches_has_none_to_drop(digits: Path) -> None:
    told = "train.force_patch_dropout=0.5: RN50: its image tower drops no patches; train.force_patch_dropout=null"
    with pytest.raises(Unusable, match=f"^{re.escape(told)}$"):
        create(digits_spec(digits, model="RN50", force_patch_dropout=0.5), torch.device("cpu"))
