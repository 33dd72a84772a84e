"""How a run goes on: a Decision from its History, by the first rule that speaks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clipctl.diagnose import diagnose
from clipctl.domain import AttemptRecord, Decision, Evidence, History, Incident, Limits, RecoverySpec
from clipctl.policy.case import case_of
from clipctl.policy.rules import RULES


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one rule said."""

    rule: str
    speaks_when: str
    decision: Decision | None  # None: it is silent


def step(
    history: History, evidence: Evidence | None, limits: Limits, recovery: RecoverySpec, *, now: float
) -> tuple[Incident | None, Decision]:
    """One look at a run: what its newest attempt's evidence says, and what follows from that and all before.

    `evidence`: None where no job of it is watched; the incident is the one that is known.
    """
    seen, history = at_a_look(history, evidence, limits, now=now)
    return seen, decide(history, seen or history.attempts[-1].incident, recovery, now=now)


def at_a_look(
    history: History, evidence: Evidence | None, limits: Limits, *, now: float
) -> tuple[Incident | None, History]:
    """What is seen now, and the history without what troubled a job that lives, as that is judged anew."""
    if evidence is None:
        return None, history
    seen = diagnose(evidence, limits, now=now)
    return seen, replace(history, attempts=tuple(map(_without_what_passed, history.attempts)))


def decide(history: History, incident: Incident | None, recovery: RecoverySpec, *, now: float) -> Decision:
    """`incident` is the newest attempt's; `now` in seconds, the clock of the history."""
    chosen = explain(history, incident, recovery, now=now)[-1].decision
    assert chosen is not None  # the last rule always speaks
    return chosen


def explain(history: History, incident: Incident | None, recovery: RecoverySpec, *, now: float) -> tuple[Verdict, ...]:
    """Every rule in order, up to the one that speaks."""
    case, said = case_of(history, incident, recovery, now=now), []
    for rule in RULES:
        decision = rule(case)
        said.append(Verdict(rule=rule.__name__, speaks_when=rule.__doc__ or "", decision=decision))
        if decision is not None:
            break
    return tuple(said)


def _without_what_passed(attempt: AttemptRecord) -> AttemptRecord:
    """What troubled a job while it lived is trouble only as long as each look finds it."""
    incident = attempt.incident
    return replace(attempt, incident=None) if attempt.live and incident is not None and incident.alive else attempt
