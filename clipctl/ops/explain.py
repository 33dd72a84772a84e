"""Why policy decides as it does: what each rule says of a run, now. Nothing is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipctl import policy
from clipctl.backends import Backend
from clipctl.domain import Decision, Incident, Limits, Resubmit
from clipctl.ops import execute
from clipctl.ops.clock import Clock
from clipctl.ops.observe import observe
from clipctl.policy.rules import RULES
from trainer.contract import SCHEMA

if TYPE_CHECKING:
    from clipctl.store.writer import Store


@dataclass(frozen=True, kw_only=True)
class Said:
    """A decision for people and for JSON."""

    decision: str  # wait, stop, resubmit, hold, complete
    basis: str
    parent: str | None = None  # of a resubmission: the checkpoint's path; None: from the start
    patch: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RuleView:
    rule: str
    speaks_when: str
    asked: bool  # False: a rule before it has spoken
    said: Said | None  # None: it is silent


@dataclass(frozen=True, kw_only=True)
class ExplainView:
    run: str
    time: float
    incident: Incident | None
    rules: tuple[RuleView, ...]
    schema: int = SCHEMA

    @property
    def chosen(self) -> Said:
        return next(view.said for view in self.rules if view.said is not None)


def explain(run: str, *, store: Store, backend: Backend, limits: Limits, clock: Clock) -> ExplainView:
    """After one look at its job, if one may live. NotFound: there is no such run."""
    record, job = store.run(run), store.newest_job(run)
    evidence = None
    if job.live:
        (seen,) = observe([job], backend=backend, limits=limits, store=store, clock=clock)
        evidence = seen.evidence
    history, now = store.history(run), clock.now()
    recovery = execute.current_spec(record, history.attempts[-1]).recovery
    found, history = policy.at_a_look(history, evidence, limits, now=now)
    incident = found or history.attempts[-1].incident
    verdicts = policy.explain(history, incident, recovery, now=now)
    asked = tuple(_view(verdict) for verdict in verdicts)
    rest = (RuleView(rule=r.__name__, speaks_when=r.__doc__ or "", asked=False, said=None) for r in RULES[len(asked) :])
    return ExplainView(run=run, time=now, incident=incident, rules=(*asked, *rest))


def said(decision: Decision) -> Said:
    word = type(decision).__name__.lower()
    if not isinstance(decision, Resubmit):
        return Said(decision=word, basis=decision.basis)
    parent = decision.remedy.parent
    path = parent.path if parent is not None else None
    return Said(decision=word, basis=decision.basis, parent=path, patch=decision.remedy.patch)


def _view(verdict: policy.Verdict) -> RuleView:
    decision = None if verdict.decision is None else said(verdict.decision)
    return RuleView(rule=verdict.rule, speaks_when=verdict.speaks_when, asked=True, said=decision)
