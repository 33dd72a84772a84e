"""The arithmetic of the card's run, checked against figures that were computed on paper."""

from __future__ import annotations

import pytest

from trainer.contract import Optim, Schedule
from trainer.position import Position
from trainer.schedule import Geometry, learning_rate

FP16 = Geometry(train_num_samples=200_000_000, batch_size=208, ranks=384, workers=6)
FP32 = Geometry(train_num_samples=200_000_000, batch_size=224, ranks=384, workers=6)
CARD = Optim(lr=1e-3, warmup=10_000)


def test_an_epoch_is_rounded_up_so_that_every_worker_gives_whole_batches() -> None:
    assert (FP16.steps_per_epoch, FP16.samples_per_epoch) == (2_508, 200_318_976)
    assert (FP32.steps_per_epoch, FP32.samples_per_epoch) == (2_328, 200_245_248)


def test_when_the_batch_grows_steps_go_back_and_the_learning_rate_hardly_moves() -> None:
    before, after = (Position(geometry, epochs_done=68).step for geometry in (FP16, FP32))
    assert (before, after) == (170_544, 158_304)
    assert learning_rate(CARD, before, 160 * 2_508) == pytest.approx(6.390e-4, abs=5e-8)
    assert learning_rate(CARD, after, 160 * 2_328) == pytest.approx(6.408e-4, abs=5e-8)


def test_warm_up_is_linear_and_cosine_ends_at_zero() -> None:
    optim = Optim(lr=2.0, warmup=4)
    assert [learning_rate(optim, step, 10) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert learning_rate(optim, 7, 10) == pytest.approx(1.0)
    assert learning_rate(optim, 10, 10) == pytest.approx(0.0)


def test_constant_stays_after_the_warm_up() -> None:
    optim = Optim(lr=2.0, warmup=2, lr_scheduler=Schedule.CONST)
    assert [learning_rate(optim, step, 10) for step in (0, 1, 2, 9)] == [1.0, 2.0, 2.0, 2.0]


def test_positions_count_epochs_in_progress_from_one_and_done_from_zero() -> None:
    at = Position(FP32, epochs_done=68, step_in_epoch=FP32.steps_per_epoch - 1, samples_seen=7).after_step()
    assert (at.epoch, at.at_border, at.samples_seen) == (69, True, 7 + 86_016)
    at = at.after_epoch()
    assert (at.epochs_done, at.epoch, at.step_in_epoch, at.step) == (69, 70, 0, 69 * 2_328)


def test_samples_are_turned_into_steps_rounded_down_and_never_past_the_epoch() -> None:
    assert FP32.steps_for(86_016 * 3 + 5) == 3
    assert FP32.steps_for(10**12) == FP32.steps_per_epoch - 1
