"""When is a run lost? Told with plain numbers, as all ranks agreed on them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from trainer.guard import GRADIENT_PATIENCE, LOSS_PATIENCE, Divergence, Guard, Step
from trainer.position import Position
from trainer.schedule import Geometry

GEOMETRY = Geometry(train_num_samples=640, batch_size=32, ranks=2, workers=1)
NAN, INF = math.nan, math.inf


def step(
    number: int, *, loss: float = 2.0, norm: float = 1.0, scale: float | None = None, bad: int | None = None
) -> Step:
    return Step(
        at=Position(GEOMETRY, step_in_epoch=number, samples_seen=number * 64),
        losses=(loss, loss),
        finite=tuple(rank != bad for rank in range(2)) if bad is not None else (math.isfinite(loss),) * 2,
        grad_norm=norm,
        scale=scale,
        logit_scale=14.3,
    )


def verdicts(guard: Guard, *steps: Step) -> list[Divergence | None]:
    return [guard.judge(each) for each in steps]


@pytest.mark.parametrize(("loss", "norm", "cause"), [(NAN, NAN, "loss"), (INF, 1.0, "loss"), (2.0, INF, "gradients")])
def test_without_a_loss_scale_the_first_step_that_is_not_finite_ends_the_run(
    loss: float, norm: float, cause: str
) -> None:
    fine, lost = verdicts(Guard(), step(1), step(2, loss=loss, norm=norm))
    assert fine is None
    assert lost is not None
    assert (lost.cause, lost.onset.at.step_in_epoch) == (cause, 2)


def test_in_float16_the_search_for_the_scale_and_single_skips_are_counted_and_nothing_more() -> None:
    guard = Guard()
    search = [step(n, norm=INF, scale=65536 / 2**n) for n in range(1, GRADIENT_PATIENCE)]
    later = [step(100 + n, norm=INF if n % 10 == 5 else 1.0, scale=512.0) for n in range(100)]
    assert verdicts(guard, *search, *later) == [None] * (len(search) + len(later))
    assert guard.skipped == len(search) + 10


def test_in_float16_a_loss_that_stays_not_finite_ends_the_run_and_is_dated_back_to_its_first_step() -> None:
    answers = verdicts(
        Guard(), step(9, scale=65536.0), *(step(n, loss=NAN, norm=NAN, scale=1024.0) for n in range(10, 20))
    )
    first = next(answer for answer in answers if answer)
    assert answers.index(first) == LOSS_PATIENCE
    assert (first.cause, first.onset.at.step_in_epoch) == ("loss", 10)


def test_in_float16_gradients_that_no_scale_can_hold_end_the_run() -> None:
    answers = verdicts(Guard(), *(step(n, norm=INF, scale=2.0**30) for n in range(1, GRADIENT_PATIENCE + 1)))
    assert answers[:-1] == [None] * (GRADIENT_PATIENCE - 1)
    assert answers[-1] is not None
    assert (answers[-1].cause, answers[-1].onset.at.step_in_epoch) == ("gradients", 1)


def test_in_float16_a_scale_below_one_ends_the_run() -> None:
    fine, lost = verdicts(Guard(), step(1, norm=INF, scale=1.0), step(2, norm=INF, scale=0.5))
    assert fine is None
    assert lost is not None
    assert lost.cause == "scale"


def test_a_good_step_in_between_breaks_the_series() -> None:
    bad = [step(n, loss=NAN, norm=NAN, scale=1024.0) for n in range(LOSS_PATIENCE - 1)]
    assert verdicts(Guard(), *bad, step(9, scale=1024.0), *bad) == [None] * (2 * len(bad) + 1)


def test_the_loss_of_a_step_is_that_of_all_ranks() -> None:
    """With local losses each rank scores its own slice: rank 0's says little about the others'."""
    uneven = replace(step(1), losses=(1.0, 4.0))
    assert uneven.loss == 2.5
    assert replace(uneven, losses=(1.0, NAN)).loss_is_finite is False
    assert math.isnan(replace(uneven, losses=(1.0, NAN)).loss)


def test_the_ranks_whose_own_forward_pass_was_not_finite_are_named() -> None:
    assert step(1, loss=NAN, bad=1).bad_ranks == (1,)
    assert step(1, norm=INF).bad_ranks == (0, 1)  # only the summed gradients tell: it may have been any


def test_the_alarm_rings_once_when_the_fourth_of_fifty_steps_is_skipped() -> None:
    guard, rung = Guard(), []
    for n in range(1, 41):
        guard.judge(step(n, norm=INF if n % 5 == 0 else 1.0, scale=4096.0))
        rung.append(guard.alarm())
    assert [n for n, text in enumerate(rung, 1) if text] == [20]
