"""What policy says of a run of the store: rule by rule now, and at each trouble that it had."""

from __future__ import annotations

from collections.abc import Callable

from clipctl.domain import JobState
from clipctl.ops import hold
from clipctl.ops.explain import ExplainView, explain
from clipctl.ops.replay import replay
from tests.ops.theatre import Stage
from trainer.contract import EventKind, ExitCode

Stages = Callable[..., Stage]
NAN = {"loss": "nan", "grad_norm": "nan", "scale": 1.0, "ranks": [0, 1], "cause": "loss"}


def explained(run: Stage) -> ExplainView:
    limits = run.cluster.limits
    return explain(run.run, store=run.store, backend=run.scheduler, limits=limits, clock=run.time)


def spoke(view: ExplainView) -> str:
    return next(rule.rule for rule in view.rules if rule.said is not None)


def test_a_run_that_goes_on_and_what_it_would_take(stage: Stages):
    run = stage()
    run.launch()
    view = explained(run)
    assert (spoke(view), view.chosen.decision) == ("alive", "wait")
    assert [rule.asked for rule in view.rules[:5]] == [True] * 4 + [False]
    assert all(rule.speaks_when for rule in view.rules)


def test_it_looks_before_it_speaks(stage: Stages):
    run = stage()
    run.launch()
    run.save(1)
    run.event(EventKind.DIVERGED, epoch=2, into=3, **NAN)
    run.scheduler.jobs = dict.fromkeys(run.scheduler.jobs, JobState.FAILED)
    view = explained(run)
    assert (spoke(view), view.chosen.decision, view.chosen.parent) == ("other_settings", "resubmit", None)
    assert view.chosen.patch == {"train.seed": 1}, "fp32 is the ladder's last"
    assert len(run.scheduler.submitted) == 1, "nothing is decided"


def test_the_past_of_a_run_and_what_was_done(stage: Stages):
    """A crash that a person resumed, then nan that nobody answered."""
    run = stage()
    run.launch()
    run.save(1)
    run.end(1)
    run.resume()
    run.event(EventKind.DIVERGED, epoch=3, into=3, **NAN)
    run.end(ExitCode.DIVERGED)
    hold.hold(run.run, reason="lunch", actor="ada", store=run.store, backend=run.scheduler, clock=run.time)
    view = replay(run.run, store=run.store)
    first, second = view.moments
    assert first.what.startswith("crashed: ")
    assert (first.clipctl[0].decision, first.clipctl[0].start) == ("resubmit", "epoch_1.pt")
    assert first.people == "ada: attempt 2: crashed; the newest good checkpoint, same settings"
    assert second.what.startswith("diverged (nan) in epoch 3")
    assert second.people == "ada: hold: lunch"
