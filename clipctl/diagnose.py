"""What became of one attempt: an Incident from Evidence. Pure; whether it happened before is policy's business.

The order of belief is the trainer's final event, then the scheduler's verdict, then the exit code, then silence.
Slurm's COMPLETED is not "training finished", and its FAILED may be a preemption whose grace signal ended the script.
"""

from __future__ import annotations

import signal
from typing import Any

from clipctl.domain import Evidence, Form, Incident, IncidentKind, JobReport, JobState, Limits
from trainer.contract import Event, EventKind, ExitCode


def diagnose(evidence: Evidence, limits: Limits, *, now: float) -> Incident | None:
    """None: completed, still alive, or not known well enough to say. `now` in seconds, the clock of `missing_since`."""
    if evidence.diverged is not None:  # before the final event: a script that was killed afterwards changes nothing
        return _diverged(evidence, evidence.diverged)
    if evidence.final is not None and evidence.final.kind == EventKind.COMPLETED:
        return None
    if not _is_over(evidence, limits, now):
        return None
    if evidence.cancel_requested:
        detail = "cancelled" if evidence.final else "cancelled before the trainer's last word"
        said = _word_lines(evidence)
        return _incident(evidence, IncidentKind.CANCELLED_BY_USER, detail, at=evidence.final, lines=said)
    if evidence.stop_requested:
        return None  # why is known already; that it was scancelled says nothing
    if (verdict := _verdict(evidence)) is not None:
        kind, detail = verdict
        lines = (*_scheduler_lines(evidence), *_word_lines(evidence), *evidence.log_tail)
        return _incident(evidence, kind, detail, at=evidence.final, lines=lines)
    if evidence.final is not None:
        return _ended_with_a_word(evidence, evidence.final)
    if evidence.exit is not None:
        return _ended_with_a_code(evidence, evidence.exit.code)
    return _lost(evidence, now)


def gone(evidence: Evidence, limits: Limits, now: float) -> bool:
    """Only answers count: a scheduler that was not asked, or did not answer, has said nothing about the job."""
    if not evidence.observed:
        return False
    if evidence.job is not None:
        return evidence.job.over
    arrived = evidence.submitted or evidence.claimed
    patience = limits.lost_after if arrived else max(limits.lost_after, limits.unanswered_for)
    return evidence.missing_since is not None and now - evidence.missing_since >= patience


def _is_over(evidence: Evidence, limits: Limits, now: float) -> bool:
    """Whether the job has ended, and the scheduler has said what it will say about that."""
    if evidence.job is not None:
        return evidence.job.over
    if evidence.final is None and evidence.exit is None:
        return gone(evidence, limits, now)
    return evidence.observed or evidence.at_exit is None  # silent, and there is one: it may yet say "preempted"


# --- the scheduler's verdict ------------------------------------------------------------------------

_VERDICTS = {
    JobState.TIMEOUT: (IncidentKind.TIMED_OUT, "wall time was over"),
    JobState.DEADLINE: (IncidentKind.TIMED_OUT, "its deadline came"),
    JobState.NODE_FAIL: (IncidentKind.NODE_FAILED, "a node failed"),
    JobState.BOOT_FAIL: (IncidentKind.NODE_FAILED, "a node did not boot"),
    JobState.OUT_OF_MEMORY: (IncidentKind.OUT_OF_MEMORY, "a node's memory was used up"),
}


def _verdict(evidence: Evidence) -> tuple[IncidentKind, str] | None:
    """What the scheduler holds responsible; None where it does not know better than the trainer."""
    job, at_exit, final = evidence.job, evidence.at_exit, evidence.final
    reports = [report for report in (job, at_exit) if report is not None]
    if any(report.state is JobState.PREEMPTED or report.preempted_at is not None for report in reports):
        return IncidentKind.PREEMPTED, "preempted by a job of higher priority"
    if job is not None and job.state is JobState.CANCELLED:
        return _cancelled(job, evidence.uid)
    if job is not None and job.state in _VERDICTS:
        return _VERDICTS[job.state]
    if final is not None and final.kind == EventKind.STOPPED and final.facts.get("signal") == signal.SIGUSR1:
        return IncidentKind.TIMED_OUT, "warned before the end of wall time: saved and stopped"
    return None


def _cancelled(job: JobReport, uid: int | None) -> tuple[IncidentKind, str]:
    if job.cancelled_by is not None and job.cancelled_by == uid:
        return IncidentKind.CANCELLED_BY_USER, "cancelled with the scheduler's own command"
    who = "the scheduler does not say by whom" if job.cancelled_by is None else f"by user {job.cancelled_by}"
    return IncidentKind.CANCELLED_BY_ADMIN, f"cancelled, {who}"


def _scheduler_lines(evidence: Evidence) -> tuple[str, ...]:
    job, at_exit = evidence.job or evidence.at_exit, evidence.at_exit
    if job is None:
        return ()
    nodes = f" on {job.nodes}" if job.nodes else ""
    code = f", exit code {job.exit_code}" if job.exit_code else ""
    preempted = next((report for report in (job, at_exit) if report and report.preempted_at is not None), None)
    line = f"scheduler: job {job.scheduler_id} {job.state}{nodes}{code}"
    return (line, "scheduler: it has a PreemptTime") if preempted else (line,)


def _word_lines(evidence: Evidence) -> tuple[str, ...]:
    final = evidence.final
    if final is None:
        return ()
    said = f"checkpoint {final.facts['checkpoint']}" if final.facts.get("checkpoint") else final.facts.get("error", "")
    return (_where(final, f"{final.kind} {said}".rstrip()),)


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
        form=Form.NAN,
        at=event,
        ranks=ranks,
        lines=(_where(event, f"diverged: {measured}, first on rank {', '.join(map(str, ranks)) or '?'}"),),
    )


def _ended_with_a_word(evidence: Evidence, final: Event) -> Incident:
    if final.kind == EventKind.STOPPED:
        asked = final.facts.get("signal", "a signal")
        line = _where(final, f"stopped on {asked}, checkpoint {final.facts.get('checkpoint', 'of this step')}")
        return _incident(evidence, IncidentKind.STOPPED, f"asked to stop by {asked}", at=final, lines=(line,))
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


def _lost(evidence: Evidence, now: float) -> Incident:
    lines = list(_scheduler_lines(evidence))
    if evidence.job is None and evidence.missing_since is not None:
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
    form: Form | None = None,
    ranks: tuple[int, ...] = (),
    lines: tuple[str, ...] = (),
) -> Incident:
    """Without an event of its own the place is the newest progress."""
    place = at or evidence.progress
    return Incident(
        kind=kind,
        attempt=evidence.attempt,
        detail=detail,
        form=form,
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
