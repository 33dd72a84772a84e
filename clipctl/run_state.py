"""Where a run stands, from facts: the one function that says so. Stored with every fact, only selected later."""

from __future__ import annotations

from dataclasses import dataclass

from clipctl.domain import ENDED_STATES, JobState, RunState
from trainer.contract import EventKind

WAITING_STATES = frozenset(
    {
        JobState.PENDING,
        JobState.CONFIGURING,
        JobState.REQUEUED,
        JobState.REQUEUE_FED,
        JobState.REQUEUE_HOLD,
        JobState.RESV_DEL_HOLD,
        JobState.SPECIAL_EXIT,
    }
)


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """All of the newest attempt and its newest job, but `held` and `cancelled`."""

    job: JobState = JobState.UNKNOWN  # as last told
    ended: bool = False  # the job is known to be over, or never came to be
    submitted: bool = True  # the scheduler accepted it, as far as we know
    missing: bool = False  # the scheduler answered, without this job
    alive: bool = False  # the trainer wrote something: an event or a heartbeat
    final: str | None = None  # the trainer's last word
    held: bool = False
    cancelled: bool = False
    succeeded: bool = False  # a job that stands by in the queue may go on


def run_state(facts: RunFacts) -> RunState:
    """The trainer's last word comes first; then whether a job may live; only then what people asked for.

    A run that was held or cancelled while its job goes on is still running: held or cancelled once the job is gone.
    """
    if facts.final == EventKind.COMPLETED:
        return RunState.COMPLETED
    if not (facts.ended or facts.final is not None or facts.job in ENDED_STATES):
        return _live(facts)
    if facts.cancelled:
        return RunState.CANCELLED
    if facts.held:
        return RunState.HELD
    goes_on = facts.succeeded and facts.final in (None, EventKind.STOPPED)
    return RunState.QUEUED if goes_on else RunState.STOPPED


def _live(facts: RunFacts) -> RunState:
    if facts.missing:
        return RunState.UNKNOWN
    if facts.job in WAITING_STATES:
        return RunState.QUEUED
    if facts.job is not JobState.UNKNOWN or facts.alive:
        return RunState.RUNNING
    return RunState.QUEUED if facts.submitted else RunState.UNKNOWN
