"""What became of one attempt: an Incident from Evidence. Pure; whether it happened before is policy's business.

The order of belief is the trainer's final event, then what the script left behind, then the scheduler's silence.
"""

from __future__ import annotations

from typing import Any

from clipctl.domain import ENDED_STATES, Evidence, Incident, IncidentKind, Limits
from trainer.contract import Event, EventKind, ExitCode


def diagnose(evidence: Evidence, limits: Limits, *, now: float) -> Incident | None:
    """None: completed, still alive, or not known well enough to say. `now` in seconds, the clock of `missing_since`."""
    if evidence.diverged is not None:  # before the final event: a script that was killed afterwards changes nothing
        return _diverged(evidence, evidence.diverged)
    if evidence.final is not None:
        return _ended_with_a_word(evidence, evidence.final)
    if evidence.cancel_requested and (evidence.exit is not None or gone(evidence, limits, now)):
        return _incident(evidence, IncidentKind.CANCELLED_BY_USER, "cancelled before the trainer's last word")
    if evidence.exit is not None:
        return _ended_with_a_code(evidence, evidence.exit.code)
    if gone(evidence, limits, now):
        return _lost(evidence, now)
    return None


# --- the trainer's last word ------------------------------------------------------------------------


def _diverged(evidence: Evidence, event: Event) -> Incident:
    facts = event.facts
    ranks = _whole_numbers(facts.get("ranks"))
    cause = str(facts.get("cause", "loss"))
    measured = ", ".join(
        f"{name} {facts[name]}" for name in ("loss", "grad_norm", "scale") if facts.get(name) is not None
    )
    return _incident(
        evidence,
        IncidentKind.DIVERGED,
        f"loss {facts['loss']}" if cause == "loss" and "loss" in facts else f"{cause} not finite",
        at=event,
        ranks=ranks,
        lines=(_where(event, f"diverged: {measured}, first on rank {', '.join(map(str, ranks)) or '?'}"),),
    )


def _ended_with_a_word(evidence: Evidence, final: Event) -> Incident | None:
    if final.kind == EventKind.COMPLETED:
        return None
    if evidence.cancel_requested:
        return _incident(
            evidence, IncidentKind.CANCELLED_BY_USER, "cancelled", at=final, lines=(_where(final, final.kind),)
        )
    if final.kind == EventKind.STOPPED:
        signal = final.facts.get("signal", "a signal")
        line = _where(final, f"stopped on {signal}, checkpoint {final.facts.get('checkpoint', 'of this step')}")
        return _incident(evidence, IncidentKind.STOPPED, f"asked to stop by {signal}", at=final, lines=(line,))
    error = str(final.facts.get("error", "no error text"))
    line = _where(final, f"crashed on rank {final.facts.get('rank', '?')}: {error}")
    ranks = _whole_numbers([final.facts.get("rank")])
    return _incident(evidence, IncidentKind.CRASHED, error, at=final, ranks=ranks, lines=(line, *evidence.log_tail))


# --- no last word -----------------------------------------------------------------------------------

_CODES = {
    ExitCode.COMPLETED: "left with 0 but without a final event",
    ExitCode.STOPPED: "left as stopped, but without its event",
    ExitCode.DIVERGED: "left as diverged, but without its event",
    ExitCode.REFUSED: "refused to start: attempt.json, its parent or the data cannot be used",
}


def _ended_with_a_code(evidence: Evidence, code: int) -> Incident:
    line = f"exit.json: code {code}"
    if code == ExitCode.FENCED:
        detail = "another job or attempt holds the run"
        return _incident(evidence, IncidentKind.FENCED, detail, lines=(line, *evidence.log_tail))
    known = {int(key): text for key, text in _CODES.items()}
    detail = known.get(code, f"left with code {code} without a final event" + _signal(code))
    return _incident(evidence, IncidentKind.CRASHED, detail, lines=(line, *evidence.log_tail))


def _signal(code: int) -> str:
    return f" (signal {code - 128})" if 128 < code < 160 else ""


def gone(evidence: Evidence, limits: Limits, now: float) -> bool:
    """Only answers count: a scheduler that was not asked, or did not answer, has said nothing about the job."""
    if not evidence.observed:
        return False
    if evidence.job is not None:
        return evidence.job.state in ENDED_STATES
    arrived = evidence.submitted or evidence.claimed
    patience = limits.lost_after if arrived else max(limits.lost_after, limits.unanswered_for)
    return evidence.missing_since is not None and now - evidence.missing_since >= patience


def _lost(evidence: Evidence, now: float) -> Incident:
    lines = []
    if evidence.job is not None:
        lines.append(f"scheduler: {evidence.job.state} ({evidence.job.raw})")
    elif evidence.missing_since is not None:
        lines.append(f"absent from every answer of the scheduler for {now - evidence.missing_since:.0f} s")
    lines.append("no final event, no exit.json")
    if not (evidence.submitted or evidence.claimed):
        lines.append("no answer to the submission was recorded, and no job of it ever started")
        return _incident(evidence, IncidentKind.LOST, "never reached the scheduler", lines=tuple(lines))
    if evidence.heartbeat is not None:
        beat = evidence.heartbeat
        lines.append(f"last heartbeat: {beat.phase}, epoch {beat.epoch}, step {beat.step}")
    return _incident(
        evidence,
        IncidentKind.LOST,
        "its processes are gone without a word",
        at=evidence.progress,
        lines=(*lines, *evidence.log_tail),
    )


# --- small parts ------------------------------------------------------------------------------------


def _incident(
    evidence: Evidence,
    kind: IncidentKind,
    detail: str,
    *,
    at: Event | None = None,
    ranks: tuple[int, ...] = (),
    lines: tuple[str, ...] = (),
) -> Incident:
    """Without an event of its own the place is the newest progress."""
    place = at or evidence.progress
    return Incident(
        kind=kind,
        attempt=evidence.attempt,
        detail=detail,
        epoch=place.epoch if place else None,
        step_in_epoch=_whole_number(place.facts.get("step_in_epoch")) if place else None,
        step=place.step if place else None,
        samples_seen=place.samples_seen if place else None,
        ranks=ranks,
        lines=lines,
    )


def _where(event: Event, text: str) -> str:
    return f"event {event.seq}: epoch {event.epoch}, step {event.step}, {event.samples_seen} samples: {text}"


def _whole_numbers(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, (list, tuple)) else ()
    return tuple(number for number in map(_whole_number, values) if number is not None)


def _whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
