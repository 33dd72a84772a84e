"""Budgets end. Whatever happens, and in whatever order, a run that gets nowhere comes before a person."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings as examples, strategies as st

from clipctl.domain import (
    CANCELS,
    AttemptRecord,
    CheckpointRecord,
    CheckpointState,
    Decision,
    Form,
    History,
    Hold,
    Incident,
    IncidentKind as Kind,
    RecoverySpec,
    Resubmit,
    RunState,
    Wait,
)
from clipctl.lineage import line_of, position
from clipctl.policy import decide
from clipctl.policy.budget import charged
from tests.policy.records import HOUR, attempt, checkpoint, diverged, ended, history
from trainer.contract import Parent

EPOCHS = 12


class End(NamedTuple):
    """One attempt: how many epochs after its start it saved, and how it ended."""

    kind: Kind
    form: Form | None = None
    saved: int = 0
    ranks: tuple[int, ...] = (1, 2)
    rise: bool | None = None
    state: CheckpointState = CheckpointState.COMPLETE
    finite: bool = True


def ends(saved: st.SearchStrategy[int]) -> st.SearchStrategy[End]:
    return st.builds(
        End,
        kind=st.sampled_from([kind for kind in Kind if kind not in CANCELS and kind is not Kind.SLOW]),
        form=st.sampled_from([None, *Form]),
        saved=saved,
        ranks=st.sampled_from([(), (3,), (1, 2)]),
        rise=st.sampled_from([None, True, False]),
        state=st.sampled_from(CheckpointState),
        finite=st.booleans(),
    )


recoveries = st.builds(
    RecoverySpec,
    rollback_epochs=st.integers(0, 3),
    tries=st.integers(1, 4),
    crashes=st.integers(1, 4),
    submissions=st.integers(1, 4),
)


@dataclass
class Run:
    """A run that is decided upon whenever it ended, by a watchdog that has all the time in the world."""

    recovery: RecoverySpec
    attempts: list[AttemptRecord] = field(default_factory=lambda: [attempt(1)])
    saved: list[CheckpointRecord] = field(default_factory=list)
    now: float = HOUR
    start: int = 0  # epochs done at the newest attempt's start

    @property
    def past(self) -> History:
        return history(*self.attempts, checkpoints=tuple(self.saved))

    def end(self, how: End) -> Decision:
        """What is decided when every pause is over."""
        newest = self.attempts[-1]
        reached = min(self.start + how.saved, EPOCHS - 1)
        for epochs in range(self.start + 1, reached + 1):
            last = epochs == reached
            state = how.state if last else CheckpointState.VERIFIED
            self.saved.append(checkpoint(newest.number, epochs, state=state, finite=how.finite or not last))
        found = diverged(newest.number, reached + 1) if how.kind is Kind.DIVERGED else ended(newest.number, how.kind)
        found = replace(found, form=how.form, ranks=how.ranks, rise=how.rise)
        self.now += HOUR
        self.attempts[-1] = replace(newest, incident=found, incident_at=self.now, ended_at=self.now)
        return self.decided(found)

    def decided(self, found: Incident) -> Decision:
        decision = decide(self.past, found, self.recovery, now=self.now)
        while isinstance(decision, Wait) and "again from" in decision.basis:
            self.now += HOUR
            decision = decide(self.past, found, self.recovery, now=self.now)
        return decision

    def go_on(self, chosen: Resubmit) -> None:
        parent, settings = chosen.remedy.parent, dict(self.attempts[-1].train)
        for path, value in chosen.remedy.patch.items():
            section, name = path.split(".")[-2:]
            if section == "optim":
                settings["optim"] = settings["optim"] | {name: value}
            else:
                settings[name] = value
        assert not isinstance(parent, Parent)
        self.start = 0 if parent is None else parent.manifest.epochs_done
        number = len(self.attempts) + 1
        self.attempts.append(attempt(number, parent=parent, settings=settings, created_at=self.now))


def to_its_end(run: Run, story: list[End], most: int) -> Decision:
    """The same things happen over and over."""
    for number in range(most):
        decision = run.end(story[number % len(story)])
        if not isinstance(decision, Resubmit):
            return decision
        run.go_on(decision)
    raise AssertionError(f"still going on after {most} attempts")


@given(recovery=recoveries, story=st.lists(ends(st.just(0)), min_size=1, max_size=8))
def test_without_progress_every_story_ends_with_a_person(recovery: RecoverySpec, story: list[End]):
    most = recovery.tries * recovery.submissions + 1  # each charged end may have refusals before it
    assert isinstance(to_its_end(Run(recovery), story, most), Hold)


@given(recovery=recoveries, story=st.lists(ends(st.integers(0, 3)), min_size=1, max_size=8))
@examples(deadline=None)
def test_with_some_progress_now_and_then_it_ends_too(recovery: RecoverySpec, story: list[End]):
    assert isinstance(to_its_end(Run(recovery), story, 60 * EPOCHS), Hold)


@given(recovery=recoveries, story=st.lists(ends(st.integers(0, 4)), min_size=1, max_size=10))
@examples(deadline=None)
def test_a_parent_is_always_whole_finite_on_the_line_and_older_than_the_rise(recovery: RecoverySpec, story: list[End]):
    run = Run(recovery)
    for how in story:
        decision = run.end(how)
        if not isinstance(decision, Resubmit):
            break
        parent, incident = decision.remedy.parent, run.attempts[-1].incident
        assert parent is None or (parent in run.saved and parent in line_of(run.past))
        if isinstance(parent, CheckpointRecord) and incident is not None:
            assert parent.manifest.finite and parent.state is not CheckpointState.DAMAGED
            assert parent.state is not CheckpointState.SUPERSEDED, "it is not there any more"
            rolled_back = "comes after" in decision.basis
            if incident.kind is Kind.DIVERGED and rolled_back:
                assert incident.epoch is not None
                assert position(parent) <= (incident.epoch - 1 - recovery.rollback_epochs, 0)
            for each in run.attempts:
                onset = each.incident.samples_seen if each.incident is not None else None
                if onset is not None and each.number == parent.manifest.attempt:
                    assert parent.manifest.samples_seen < onset
        run.go_on(decision)


@given(story=st.lists(ends(st.integers(0, 4)), min_size=1, max_size=6), now=st.floats(0, 1e9), data=st.data())
def test_nothing_is_submitted_while_a_job_may_live_or_its_end_is_not_known(
    story: list[End], now: float, data: st.DataObject
):
    run = Run(RecoverySpec())
    for how in story:
        if not isinstance(decision := run.end(how), Resubmit):
            break
        run.go_on(decision)
    released = data.draw(st.sampled_from([0.0, now, float("inf")]))
    state = data.draw(st.sampled_from([state for state in RunState if state is not RunState.COMPLETED]))
    past = replace(run.past, set_going_at=released, state=state)
    which = data.draw(st.integers(0, len(past.attempts) - 1))
    living = [replace(each, live=each.live or index == which) for index, each in enumerate(past.attempts)]
    lives = replace(past, attempts=tuple(living))
    assert not isinstance(decide(lives, lives.attempts[-1].incident, RecoverySpec(), now=now), Resubmit)
    silent = replace(past, attempts=(*past.attempts[:-1], replace(past.attempts[-1], incident=None)))
    assert not isinstance(decide(silent, None, RecoverySpec(), now=now), Resubmit)


# --- what costs, as a table ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("story", "cost"),
    [
        ([End(Kind.CRASHED)], 1),
        ([End(Kind.PREEMPTED)], 1),
        ([End(Kind.PREEMPTED), End(Kind.TIMED_OUT), End(Kind.NODE_FAILED)], 3),
        ([End(Kind.CRASHED), End(Kind.CRASHED, saved=1)], 0),
        ([End(Kind.CRASHED, saved=1), End(Kind.HUNG), End(Kind.LOST)], 2),
        ([End(Kind.CRASHED), End(Kind.SUBMIT_REFUSED), End(Kind.SUBMIT_REFUSED)], 1),
        # rolled back to epoch 2: what interrupts it below the mark is free where something was saved since
        ([End(Kind.DIVERGED, saved=4), End(Kind.PREEMPTED, saved=1)], 0),
        ([End(Kind.DIVERGED, saved=4), End(Kind.PREEMPTED, saved=1), End(Kind.PREEMPTED)], 1),
        ([End(Kind.DIVERGED, saved=4), End(Kind.CRASHED, saved=1)], 1),
        # each saved an epoch, which was gone when the next one started: all but the newest have brought nothing
        ([End(Kind.PREEMPTED, saved=1), *[End(Kind.PREEMPTED, saved=1, state=CheckpointState.SUPERSEDED)] * 4], 2),
        ([End(Kind.DIVERGED, saved=4), End(Kind.DIVERGED, saved=1)], 1),
        ([End(Kind.DIVERGED, saved=4), End(Kind.DIVERGED, saved=1), End(Kind.PREEMPTED, saved=4)], 0),
        # a checkpoint that cannot be used is no progress
        ([End(Kind.CRASHED, saved=1, state=CheckpointState.DAMAGED)], 1),
        ([End(Kind.CRASHED, saved=1, finite=False)], 1),
        ([End(Kind.CRASHED, saved=1, state=CheckpointState.SUPERSEDED)], 0),
    ],
)
def test_what_was_paid_for(story: list[End], cost: int):
    run = Run(RecoverySpec(rollback_epochs=2))
    for how in story[:-1]:
        decision = run.end(how)
        assert isinstance(decision, Resubmit), decision
        run.go_on(decision)
    run.end(story[-1])
    assert len(charged(run.past)) == cost
    assert charged(replace(run.past, set_going_at=run.now + 1)) == (), "a person's word opens the budget again"
