"""What the rules look at: a history that includes the newest incident, and what follows from it at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from clipctl.domain import AttemptRecord, Form, History, Incident, IncidentKind, RecoverySpec
from clipctl.policy.budget import charged
from clipctl.policy.suspicion import diverged


@dataclass(frozen=True, kw_only=True)
class Case:
    history: History
    recovery: RecoverySpec
    now: float

    @property
    def newest(self) -> AttemptRecord:
        return self.history.attempts[-1]

    @property
    def incident(self) -> Incident | None:
        """The newest attempt's own."""
        return self.newest.incident

    @property
    def live(self) -> AttemptRecord | None:
        return next((attempt for attempt in self.history.attempts if attempt.live), None)

    @property
    def released(self) -> bool:
        """A person set the run going after this happened, and so wants it to be tried again."""
        newest = self.newest
        times = [newest.created_at, newest.incident_at or 0.0] + ([newest.ended_at] if newest.ended_at else [])
        return self.history.set_going_at > max(times)

    @cached_property
    def charged(self) -> tuple[AttemptRecord, ...]:
        """See `budget.charged`."""
        return charged(self.history)

    @cached_property
    def cause(self) -> Incident | None:
        """The incident that has to be answered: the newest, or the one before it that the newest only stumbled over."""
        attempts = list(self.history.attempts)
        while len(attempts) > 1 and _leads_back(attempts[-1], attempts[-2], self.charged):
            attempts.pop()
        return attempts[-1].incident


def case_of(history: History, incident: Incident | None, recovery: RecoverySpec, *, now: float) -> Case:
    """`incident` may be newer than what the history has of its attempt."""
    if incident is not None:
        attempts = tuple(_with(attempt, incident, now) for attempt in history.attempts)
        history = replace(history, attempts=attempts)
    return Case(history=history, recovery=recovery, now=now)


def _with(attempt: AttemptRecord, incident: Incident, now: float) -> AttemptRecord:
    if attempt.number != incident.attempt or attempt.incident == incident:
        return attempt
    return replace(attempt, incident=incident, incident_at=now)


def _leads_back(newest: AttemptRecord, before: AttemptRecord, charged: tuple[AttemptRecord, ...]) -> bool:
    incident = newest.incident
    if incident is None:
        return False
    if incident.kind is IncidentKind.FENCED:
        return True  # a job that was queued before the other ended: its claim left the answer to us
    if incident.kind is not IncidentKind.OUT_OF_MEMORY or incident.form is not Form.GPU_MEMORY:
        return False
    # a remedy that does not fit into the GPU: the divergence still waits for one that does
    return newest in charged and diverged(before.incident) and newest.settings_digest != before.settings_digest
