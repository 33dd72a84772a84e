"""Whether an attempt's trouble was its settings' fault: what failed for another reason may be tried again."""

from __future__ import annotations

from clipctl.domain import AttemptRecord, Form, History, Incident, IncidentKind


def diverged(incident: Incident | None) -> bool:
    return incident is not None and incident.kind is IncidentKind.DIVERGED


def settings_failed(attempt: AttemptRecord, history: History) -> bool:
    """These settings from this checkpoint: not again."""
    incident = attempt.incident
    if incident is None:
        return False
    if incident.kind is IncidentKind.OUT_OF_MEMORY:
        return incident.form is Form.GPU_MEMORY
    return diverged(incident) and not one_bad_node(attempt, history)


def one_bad_node(attempt: AttemptRecord, history: History) -> bool:
    """Not finite on one rank of several, out of the blue, and nowhere else with these settings: not the settings'."""
    incident = attempt.incident
    if incident is None or not diverged(incident) or incident.form in (Form.SPIKE, Form.PLATEAU):
        return False
    alone = len(incident.ranks) == 1 and attempt.ranks > 1
    return alone and incident.rise is False and not any(_same_place(attempt, other) for other in history.attempts)


def _same_place(attempt: AttemptRecord, other: AttemptRecord) -> bool:
    """Two attempts with the same settings diverged in the same epoch."""
    if other.number == attempt.number or other.settings_digest != attempt.settings_digest:
        return False
    if attempt.incident is None or other.incident is None or not diverged(other.incident):
        return False
    return attempt.incident.epoch == other.incident.epoch
