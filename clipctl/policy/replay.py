"""The past through today's policy: at each trouble, what it would decide, next to what people did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from clipctl.domain import AttemptRecord, History, Incident, RecoverySpec, Resubmit, RunState
from clipctl.policy.decide import explain
from clipctl.policy.suspicion import diverged
from clipctl.policy.words import named
from trainer.contract import SCHEMA, Precision

NEWEST, OLDER = "the newest good checkpoint", "a good checkpoint from before it"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One decision, with the rule that took it."""

    rule: str
    decision: str  # wait, stop, resubmit, hold
    basis: str
    start: str = ""  # of a resubmission: the checkpoint
    changes: Mapping[str, Any] = field(default_factory=dict)  # the remedy's, with what a precision brings along


@dataclass(frozen=True, kw_only=True)
class Moment:
    when: str
    what: str
    clipctl: tuple[Answer, ...]  # two for a job that is stopped: that, and what follows when it is gone
    people: str  # what was done
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReplayView:
    title: str
    moments: tuple[Moment, ...]
    sources: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA


def answers(history: History, recovery: RecoverySpec, *, placed: bool = True) -> tuple[Answer, ...]:
    """What policy says to the newest attempt's trouble, when every pause is over.

    Not `placed`: where it happened is not told, and so neither is which checkpoint it would be.
    """
    newest = history.attempts[-1]
    incident = newest.incident
    assert incident is not None
    said = []
    if incident.alive:
        said.append(_answer(_with(history, live=True), recovery, placed))
    if not said or said[0].decision == "stop":
        said.append(_answer(_with(history, live=False), recovery, placed))
    return tuple(said)


def told(incident: Incident, *, placed: bool = True) -> str:
    form = f" ({incident.form.replace('_', ' ')})" if incident.form else ""
    place = f" in epoch {incident.epoch}" if placed and incident.epoch is not None else ""
    return f"{named(incident)}{form}{place}: {incident.detail}"


def _with(history: History, *, live: bool) -> History:
    newest: AttemptRecord = replace(history.attempts[-1], live=live)
    state = RunState.RUNNING if live else RunState.STOPPED
    return replace(history, state=state, attempts=(*history.attempts[:-1], newest))


def _answer(history: History, recovery: RecoverySpec, placed: bool) -> Answer:
    newest = history.attempts[-1]
    now = (newest.ended_at or newest.created_at) + recovery.longest_backoff + recovery.linger
    verdict = explain(history, newest.incident, recovery, now=now)[-1]
    decision = verdict.decision
    assert decision is not None
    word = type(decision).__name__.lower()
    basis = decision.basis if placed or not diverged(newest.incident) else ""  # that of a divergence names its place
    if not isinstance(decision, Resubmit):
        return Answer(rule=verdict.rule, decision=word, basis=basis)
    start, changes = _start(decision, newest.incident, placed), _changes(decision, history)
    return Answer(rule=verdict.rule, decision=word, basis=basis, start=start, changes=changes)


def _start(decision: Resubmit, incident: Incident | None, placed: bool) -> str:
    parent = decision.remedy.parent
    if parent is None:
        return "the start"
    if placed:
        return parent.path.rpartition("/")[2]
    return OLDER if diverged(incident) else NEWEST


def _changes(decision: Resubmit, history: History) -> dict[str, Any]:
    precision = decision.remedy.patch.get("train.precision")
    profile = {} if precision is None else history.profiles.get(Precision(precision), {})
    return {**decision.remedy.patch, **profile}
