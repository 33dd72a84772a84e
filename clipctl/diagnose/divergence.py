"""A run that diverged: not finite by the trainer's word, or by its losses stuck, or up and not coming back."""

from __future__ import annotations

import math

from clipctl.diagnose.finding import finding, where, whole_numbers
from clipctl.diagnose.losses import Course, Rise, course, guesses, plateau, rise, telling
from clipctl.domain import Evidence, Form, Incident, IncidentKind, Limits
from clipctl.series import Point
from trainer.contract import Event


def not_finite(evidence: Evidence, event: Event, limits: Limits) -> Incident:
    """Where the loss had risen before, the place is where that began: checkpoints written since are no parents."""
    facts = event.facts
    ranks = whole_numbers(facts.get("ranks"))
    cause = str(facts.get("cause", "loss"))
    measured = ", ".join(
        f"{name} {facts[name]}" for name in ("loss", "grad_norm", "scale") if facts.get(name) is not None
    )
    points = _points(evidence, limits)
    before = rise(points, limits.loss)
    line = where(event, f"diverged: {measured}, first on rank {', '.join(map(str, ranks)) or '?'}")
    return finding(
        evidence,
        IncidentKind.DIVERGED,
        f"loss {facts['loss']}" if cause == "loss" and "loss" in facts else f"{cause} not finite",
        form=Form.NAN,
        at=before.onset if before else event,
        ranks=ranks,
        rise=before is not None if points else None,
        lines=(line, *(rise_lines(before) if before else ())),
    )


def risen(evidence: Evidence, limits: Limits, *, alive: bool) -> Incident | None:
    """By the losses alone. A spike that may still come back is none."""
    points = _points(evidence, limits)
    found = rise(points, limits.loss)
    stuck = plateau(points, found, limits.loss)
    if stuck:
        onset = found.onset if found else stuck[0]
        detail = f"stuck at a loss of {stuck[-1].loss:.4g}; guessing gives {guessing(stuck[-1]):.4g}"
        lines = rise_lines(found) if found else (told(stuck[0]), told(stuck[-1]))
        return finding(evidence, IncidentKind.DIVERGED, detail, form=Form.PLATEAU, at=onset, alive=alive, lines=lines)
    if found is None or course(found, limits.loss) is not Course.STAYS:
        return None
    detail = f"the loss rose from {level_of(found):.4g} to {found.points[-1].loss:.4g} and does not come back"
    return finding(
        evidence,
        IncidentKind.DIVERGED,
        detail,
        form=Form.PLATEAU if guesses(found, limits.loss) else Form.SPIKE,
        at=found.onset,
        alive=alive,
        lines=rise_lines(found),
    )


def current_rise(evidence: Evidence, limits: Limits) -> Rise | None:
    return rise(_points(evidence, limits), limits.loss)


def _points(evidence: Evidence, limits: Limits) -> tuple[Point, ...]:
    """None until the attempt itself has some: how an earlier one ended is known already."""
    points = telling(evidence.series, limits.loss) if evidence.series else ()
    return points if points and points[-1].attempt == evidence.attempt else ()


def level_of(found: Rise) -> float:
    """As a loss of the onset's attempt."""
    return found.level * guessing(found.onset)


def rise_lines(found: Rise) -> tuple[str, ...]:
    worst = max(found.points, key=lambda point: point.loss)
    places = dict.fromkeys((found.onset, worst, found.points[-1]))
    level = f"the loss had come down to {level_of(found):.4g}; guessing gives {guessing(found.onset):.4g}"
    return (level, told(found.held), *map(told, places))


def guessing(point: Point) -> float:
    """ln(global batch)."""
    return math.log(max(point.batch, 2))


def told(point: Point) -> str:
    """As lines of events are, with the attempt, as it may be an earlier one."""
    more = ""
    if point.grad_norm is not None:
        more += f", gradient norm at most {point.grad_norm:.4g}"
    if point.scale is not None:
        more += f", loss scale {point.scale:g}"
    place = f"epoch {point.epoch}, step {point.step}, {point.samples_seen} samples"
    return f"attempt {point.attempt}, event {point.seq}: {place}: loss {point.loss:.4g}{more}"
