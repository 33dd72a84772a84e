"""How a decision's basis says what happened."""

from __future__ import annotations

import time

from clipctl.domain import AttemptRecord, Form, Incident, IncidentKind

_RISES = {Form.SPIKE: "with a rise that did not come back", Form.PLATEAU: "with a loss that is stuck"}


def named(incident: Incident) -> str:
    return incident.kind.replace("_", " ")


def onset(incident: Incident) -> str:
    epoch = "" if incident.epoch is None else f" at epoch {incident.epoch}"
    step = "" if incident.step_in_epoch is None else f", step {incident.step_in_epoch}"
    detail = incident.detail or _RISES.get(incident.form or Form.NAN, "")
    return f"diverged{epoch}{step}" + (f" ({detail})" if detail else "")


def ended(incident: Incident) -> str:
    """As the end of a sentence about an attempt."""
    if incident.kind is IncidentKind.DIVERGED:
        return "diverged"
    return "ran out of memory" if incident.kind is IncidentKind.OUT_OF_MEMORY else f"ended: {named(incident)}"


def tried(attempts: tuple[AttemptRecord, ...]) -> str:
    """For the person who has to go on from here: what was tried, and what became of it."""
    return "; ".join(map(_one, attempts))


def _one(attempt: AttemptRecord) -> str:
    start = "the start" if attempt.parent_path is None else attempt.parent_path.rpartition("/")[2]
    incident = attempt.incident
    if incident is None:
        became = "its end is not known"
    else:
        became = onset(incident) if incident.kind is IncidentKind.DIVERGED else named(incident)
    return f"attempt {attempt.number} in {attempt.train['precision']} from {start}: {became}"


def clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
