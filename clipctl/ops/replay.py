"""A run's own past through today's policy: at each of its troubles, what would be decided, and what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from clipctl.domain import WATCHDOG, CheckpointRecord, CheckpointState, History, RunState
from clipctl.ops import execute
from clipctl.policy.replay import Moment, ReplayView, answers, told

if TYPE_CHECKING:
    from clipctl.store import DecisionRecord
    from clipctl.store.writer import Store


def replay(run: str, *, store: Store) -> ReplayView:
    """NotFound: there is no such run."""
    record, history, decisions = store.run(run), store.history(run), store.decisions(run)
    recovery = execute.current_spec(record, history.attempts[-1]).recovery
    moments = []
    for attempt in history.attempts:
        if attempt.incident is None or attempt.live:
            continue
        when = attempt.ended_at or attempt.incident_at or attempt.created_at
        past = _as_it_was(history, attempt.number, when, decisions)
        moments.append(
            Moment(
                when=f"attempt {attempt.number}",
                what=told(attempt.incident),
                clipctl=answers(past, recovery),
                people=_done(decisions, attempt.number, when),
            )
        )
    return ReplayView(title=f"run {run}", moments=tuple(moments))


def _as_it_was(history: History, number: int, when: float, decisions: Sequence[DecisionRecord]) -> History:
    """When attempt `number` had ended: later attempts were not, and what was pruned since was there."""
    acts = (each.time for each in decisions if each.time <= when and _by_a_person(each))
    return replace(
        history,
        state=RunState.STOPPED,
        hold_reason=None,
        attempts=tuple(attempt for attempt in history.attempts if attempt.number <= number),
        checkpoints=tuple(_there(item) for item in history.checkpoints if item.manifest.attempt <= number),
        set_going_at=max(acts, default=0.0),
    )


def _there(item: CheckpointRecord) -> CheckpointRecord:
    pruned = item.state is CheckpointState.SUPERSEDED
    return replace(item, state=CheckpointState.COMPLETE) if pruned else item


def _by_a_person(each: DecisionRecord) -> bool:
    return each.kind == "release" or (each.kind == "intent" and each.actor != WATCHDOG)


def _done(decisions: Sequence[DecisionRecord], number: int, when: float) -> str:
    for each in decisions:
        if each.kind == "intent" and each.attempt == number + 1:
            return f"{each.actor}: attempt {each.attempt}: {each.basis}"
    later = [each for each in decisions if each.time >= when and each.kind in ("hold", "cancel", "complete")]
    return f"{later[0].actor}: {later[0].kind}: {later[0].basis}" if later else "nothing yet"
