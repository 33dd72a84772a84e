"""An Incident, with the place it points to and lines that a person can check."""

from __future__ import annotations

from typing import Any

from clipctl.diagnose.causes import Cause
from clipctl.domain import Evidence, Form, Incident, IncidentKind
from clipctl.series import Point
from trainer.contract import Event


def finding(
    evidence: Evidence,
    kind: IncidentKind,
    detail: str,
    *,
    at: Event | Point | None = None,
    form: Form | None = None,
    ranks: tuple[int, ...] = (),
    rise: bool | None = None,
    nodes: tuple[str, ...] = (),
    passes: bool = True,
    alive: bool = False,
    lines: tuple[str, ...] = (),
) -> Incident:
    """Without a place of its own it is where the newest progress is."""
    place = at or evidence.progress
    return Incident(
        kind=kind,
        attempt=evidence.attempt,
        detail=detail,
        form=form,
        epoch=place.epoch if place else None,
        step_in_epoch=step_in_epoch(place),
        step=place.step if place else None,
        samples_seen=place.samples_seen if place else None,
        ranks=ranks,
        rise=rise,
        nodes=nodes,
        passes=passes,
        alive=alive,
        lines=lines,
    )


def because(
    evidence: Evidence,
    found: Cause,
    *,
    at: Event | None = None,
    ranks: tuple[int, ...] = (),
    lines: tuple[str, ...] = (),
) -> Incident:
    return finding(
        evidence,
        found.kind,
        found.detail,
        at=at,
        form=found.form,
        ranks=ranks,
        nodes=found.nodes,
        passes=found.passes,
        lines=lines,
    )


def step_in_epoch(place: Event | Point | None) -> int | None:
    """Events carry it among their facts, where they do."""
    if isinstance(place, Event):
        return whole_number(place.facts.get("step_in_epoch"))
    return place.step_in_epoch if place else None


def where(event: Event, text: str) -> str:
    return f"event {event.seq}: epoch {event.epoch}, step {event.step}, {event.samples_seen} samples: {text}"


def whole_numbers(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, (list, tuple)) else ()
    return tuple(number for number in map(whole_number, values) if number is not None)


def whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
