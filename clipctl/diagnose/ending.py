"""How an attempt ended, by the words of those who should know, in the order in which they are believed."""

from __future__ import annotations

import signal

from clipctl.diagnose.causes import HOST_MEMORY, Cause, cause, first_cause, follows, nodes_named
from clipctl.diagnose.finding import because, finding, where, whole_numbers
from clipctl.domain import Evidence, Incident, IncidentKind, JobReport, JobState, Limits
from trainer.contract import Event, EventKind, ExitCode

# --- whether ----------------------------------------------------------------------------------------


def gone(evidence: Evidence, limits: Limits, now: float) -> bool:
    """Only answers count: a scheduler that was not asked, or did not answer, has said nothing about the job."""
    if not evidence.observed:
        return False
    if evidence.job is not None:
        return evidence.job.over
    arrived = evidence.submitted or evidence.claimed
    patience = limits.lost_after if arrived else max(limits.lost_after, limits.unanswered_for)
    return evidence.missing_since is not None and now - evidence.missing_since >= patience


def is_over(evidence: Evidence, limits: Limits, now: float) -> bool:
    """Whether the job has ended, and the scheduler has said what it will say about that."""
    if evidence.job is not None:
        return evidence.job.over
    if evidence.final is None and evidence.exit is None:
        return gone(evidence, limits, now)
    return evidence.observed or evidence.at_exit is None  # silent, and there is one: it may yet say "preempted"


# --- how --------------------------------------------------------------------------------------------


def cancelled(evidence: Evidence) -> Incident:
    """As a person asked clipctl to."""
    detail = "cancelled" if evidence.final else "cancelled before the trainer's last word"
    said = _word_lines(evidence)
    return finding(evidence, IncidentKind.CANCELLED_BY_USER, detail, at=evidence.final, lines=said)


def how_it_ended(evidence: Evidence, found: Cause | None, now: float) -> Incident:
    """`found`: the scheduler's verdict, if it has one."""
    if found is not None:
        lines = (*_scheduler_lines(evidence), *_word_lines(evidence), *evidence.log_tail)
        return because(evidence, found, at=evidence.final, lines=lines)
    if evidence.final is not None:
        return _ended_with_a_word(evidence, evidence.final)
    if evidence.exit is not None:
        return _ended_with_a_code(evidence, evidence.exit.code)
    return _lost(evidence, now)


# --- the scheduler's verdict ------------------------------------------------------------------------

_VERDICTS = {
    JobState.TIMEOUT: Cause(IncidentKind.TIMED_OUT, "wall time was over"),
    JobState.DEADLINE: Cause(IncidentKind.TIMED_OUT, "its deadline came"),
    JobState.OUT_OF_MEMORY: HOST_MEMORY,
}
_BY_A_NODE = {JobState.NODE_FAIL: "a node failed", JobState.BOOT_FAIL: "a node did not boot"}


def verdict(evidence: Evidence) -> Cause | None:
    """What the scheduler holds responsible; None where it does not know better than the trainer."""
    job, at_exit, final = evidence.job, evidence.at_exit, evidence.final
    reports = [report for report in (job, at_exit) if report is not None]
    if any(report.state is JobState.PREEMPTED or report.preempted_at is not None for report in reports):
        return Cause(IncidentKind.PREEMPTED, "preempted by a job of higher priority")
    if job is not None and (job.failed_nodes or job.state in _BY_A_NODE):
        return _by_a_node(job, evidence.log_tail)
    if job is not None and job.state is JobState.CANCELLED:
        return _cancelled(job, evidence.uid)
    if job is not None and job.state in _VERDICTS:
        return _VERDICTS[job.state]
    if final is not None and final.kind == EventKind.STOPPED and final.facts.get("signal") == signal.SIGUSR1:
        return Cause(IncidentKind.TIMED_OUT, "warned before the end of wall time: saved and stopped")
    return None


def _by_a_node(job: JobReport, log: tuple[str, ...]) -> Cause:
    """A job that a node does not let start is CANCELLED, as if somebody had wanted that. A node that came back at once
    is named by srun alone."""
    nodes = tuple(job.failed_nodes) or nodes_named(log)
    which = f": {', '.join(nodes)}" if nodes else ""
    detail = _BY_A_NODE.get(job.state, "a node did not start it")
    return Cause(IncidentKind.NODE_FAILED, f"{detail}{which}", nodes=nodes)


def _cancelled(job: JobReport, uid: int | None) -> Cause:
    if job.cancelled_by is not None and job.cancelled_by == uid:
        return Cause(IncidentKind.CANCELLED_BY_USER, "cancelled with the scheduler's own command")
    who = "the scheduler does not say by whom" if job.cancelled_by is None else f"by user {job.cancelled_by}"
    return Cause(IncidentKind.CANCELLED_BY_ADMIN, f"cancelled, {who}")


def _scheduler_lines(evidence: Evidence) -> tuple[str, ...]:
    job, at_exit = evidence.job or evidence.at_exit, evidence.at_exit
    if job is None:
        return ()
    nodes = f" on {job.nodes}" if job.nodes else ""
    code = f", exit code {job.exit_code}" if job.exit_code else ""
    preempted = next((report for report in (job, at_exit) if report and report.preempted_at is not None), None)
    line = f"scheduler: job {job.scheduler_id} {job.state}{nodes}{code}"
    failed = [f"scheduler: node {name} {why}" for name, why in job.failed_nodes.items()]
    return (line, *failed, *(["scheduler: it has a PreemptTime"] if preempted else []))


def _word_lines(evidence: Evidence) -> tuple[str, ...]:
    final = evidence.final
    if final is None:
        return ()
    said = f"checkpoint {final.facts['checkpoint']}" if final.facts.get("checkpoint") else final.facts.get("error", "")
    return (where(final, f"{final.kind} {said}".rstrip()),)


# --- the trainer's last word ------------------------------------------------------------------------


def _ended_with_a_word(evidence: Evidence, final: Event) -> Incident:
    if final.kind == EventKind.STOPPED:
        asked = final.facts.get("signal", "a signal")
        line = where(final, f"stopped on {asked}, checkpoint {final.facts.get('checkpoint', 'of this step')}")
        return finding(evidence, IncidentKind.STOPPED, f"asked to stop by {asked}", at=final, lines=(line,))
    error = str(final.facts.get("error", "no error text"))
    line = where(final, f"crashed on rank {final.facts.get('rank', '?')}: {error}")
    heard = follows(error)
    ranks = _left_first(evidence) if heard else ()
    ranks = ranks or whole_numbers([final.facts.get("rank")])
    found = cause(error) or (first_cause(evidence.log_tail) if heard else None)
    refused = evidence.exit is not None and evidence.exit.code == ExitCode.REFUSED
    found = found or Cause(IncidentKind.CRASHED, error, passes=not refused)
    return because(evidence, found, at=final, ranks=ranks, lines=(line, *evidence.log_tail))


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
        return finding(evidence, IncidentKind.FENCED, detail, lines=(line, *evidence.log_tail))
    known = {int(key): text for key, text in _CODES.items()}
    detail = known.get(code, f"left with code {code} without a final event" + _signal(code))
    found = Cause(IncidentKind.CRASHED, detail, passes=code != ExitCode.REFUSED)
    found = first_cause(evidence.log_tail) or found
    return because(evidence, found, ranks=_left_first(evidence), lines=(line, *evidence.log_tail))


def _left_first(evidence: Evidence) -> tuple[int, ...]:
    return () if evidence.left_first is None else (evidence.left_first,)


def _signal(code: int) -> str:
    return f" (signal {code - 128})" if 128 < code < 160 else ""


def _lost(evidence: Evidence, now: float) -> Incident:
    lines = list(_scheduler_lines(evidence))
    if evidence.job is None and evidence.missing_since is not None:
        lines.append(f"absent from every answer of the scheduler for {now - evidence.missing_since:.0f} s")
    lines.append("no final event, no exit.json")
    if not (evidence.submitted or evidence.claimed):
        lines.append("no answer to the submission was recorded, and no job of it ever started")
        return finding(evidence, IncidentKind.LOST, "never reached the scheduler", lines=tuple(lines))
    if evidence.heartbeat is not None:
        beat = evidence.heartbeat
        lines.append(f"last heartbeat: {beat.phase}, epoch {beat.epoch}, step {beat.step}")
    found = first_cause(evidence.log_tail) or Cause(IncidentKind.LOST, "its processes are gone without a word")
    return because(evidence, found, lines=(*lines, *evidence.log_tail))
