"""The arithmetic of the card's run, checked against figures that were computed on paper."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from open_clip_train.scheduler import const_lr, const_lr_cooldown, cosine_lr

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
    assert learning_rate(CARD, before, epochs=160, steps_per_epoch=2_508) == pytest.approx(6.390e-4, abs=5e-8)
    assert learning_rate(CARD, after, epochs=160, steps_per_epoch=2_328) == pytest.approx(6.408e-4, abs=5e-8)


def rates(steps: Iterable[int], **optim: Any) -> list[float]:
    """Of a run of two epochs with five steps each."""
    return [learning_rate(Optim(lr=2.0, **optim), step, epochs=2, steps_per_epoch=5) for step in steps]


def test_warm_up_is_linear_and_cosine_ends_at_zero() -> None:
    assert rates(range(4), warmup=4) == [0.5, 1.0, 1.5, 2.0]
    assert rates([7, 10], warmup=4) == pytest.approx([1.0, 0.0])


def test_constant_stays_after_the_warm_up() -> None:
    assert rates((0, 1, 2, 9), warmup=2, lr_scheduler=Schedule.CONST) == [1.0, 2.0, 2.0, 2.0]


def test_a_constant_one_falls_in_the_last_epochs_to_where_it_shall_end() -> None:
    cooldown = {"warmup": 1, "lr_scheduler": Schedule.CONST_COOLDOWN, "epochs_cooldown": 1}
    assert rates((0, 4, 5, 6, 9, 10), **cooldown) == pytest.approx([2.0, 2.0, 2.0, 1.6, 0.4, 0.0])
    assert rates((6, 10), **cooldown, lr_cooldown_end=1.0) == pytest.approx([1.8, 1.0])
    assert rates((6, 10), **cooldown, lr_cooldown_power=2.0) == pytest.approx([1.28, 0.0])


@pytest.mark.parametrize(
    ("scheduler", "theirs"),
    [
        (Schedule.COSINE, lambda optimizer: cosine_lr(optimizer, 2.0, 3, 10)),
        (Schedule.CONST, lambda optimizer: const_lr(optimizer, 2.0, 3, 10)),
        (Schedule.CONST_COOLDOWN, lambda optimizer: const_lr_cooldown(optimizer, 2.0, 3, 10, 5, 1.5, 0.25)),
    ],
)
def test_each_schedule_is_open_clip_train_s_own_to_the_last_bit_or_so(
    scheduler: Schedule, theirs: Callable[[Any], Callable[[int], float]]
) -> None:
    cooldown = {"epochs_cooldown": 1, "lr_cooldown_power": 1.5, "lr_cooldown_end": 0.25}
    optim = {"warmup": 3, "lr_scheduler": scheduler} | (cooldown if scheduler is Schedule.CONST_COOLDOWN else {})
    adjust = theirs(SimpleNamespace(param_groups=[]))
    assert rates(range(10), **optim) == pytest.approx([adjust(step) for step in range(10)], rel=1e-12)


def test_positions_count_epochs_in_progress_from_one_and_done_from_zero() -> None:
    at = Position(FP32, epochs_done=68, step_in_epoch=FP32.steps_per_epoch - 1, samples_seen=7).after_step()
    assert (at.epoch, at.at_border, at.samples_seen) == (69, True, 7 + 86_016)
    at = at.after_epoch()
    assert (at.epochs_done, at.epoch, at.step_in_epoch, at.step) == (69, 70, 0, 69 * 2_328)


def test_samples_are_turned_into_steps_rounded_down_and_never_past_the_epoch() -> None:
    assert FP32.steps_for(86_016 * 3 + 5) == 3
    assert FP32.steps_for(10**12) == FP32.steps_per_epoch - 1
