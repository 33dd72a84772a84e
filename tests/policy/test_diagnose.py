"""What became of an attempt, from what is known about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clipctl.diagnose import diagnose
from clipctl.domain import Evidence, Incident, IncidentKind, JobReport, JobState, Limits
from trainer.contract import Event, EventKind, Exit, ExitCode, Heartbeat, Phase

NOW = 10_000.0
LIMITS = Limits(lost_after=180.0)


def event(kind: EventKind, seq: int = 9, **facts: Any) -> Event:
    return Event(seq=seq, time=NOW - 60, kind=kind, epoch=2, step=34, samples_seen=2176, facts=facts)


def evidence(**known: Any) -> Evidence:
    return Evidence(**{"attempt": 1, "time": NOW, "job": None, "observed": True, "submitted": True} | known)


def judged(**known: Any) -> Incident | None:
    return diagnose(evidence(**known), LIMITS, now=NOW)


def report(state: JobState) -> JobReport:
    return JobReport(nonce="abc", scheduler_id="17", state=state, raw=str(state))


NAN = event(EventKind.DIVERGED, step_in_epoch=10, loss="nan", grad_norm="inf", scale=1024.0, ranks=[0, 1], cause="loss")


def test_a_divergence_says_where_how_and_on_which_ranks():
    incident = judged(diverged=NAN, final=NAN, exit=Exit(code=ExitCode.DIVERGED, time=NOW))
    assert incident is not None
    assert (incident.kind, incident.detail) == (IncidentKind.DIVERGED, "loss nan")
    assert (incident.epoch, incident.step_in_epoch, incident.step, incident.samples_seen) == (2, 10, 34, 2176)
    assert incident.ranks == (0, 1)
    assert incident.lines == (
        "event 9: epoch 2, step 34, 2176 samples: diverged: loss nan, grad_norm inf, scale 1024.0, first on rank 0, 1",
    )


def test_gradients_that_are_not_finite_are_named_as_the_cause():
    incident = judged(diverged=event(EventKind.DIVERGED, loss=2.5, grad_norm="inf", ranks=[1], cause="gradients"))
    assert incident is not None
    assert incident.detail == "gradients not finite"


def test_a_crash_brings_its_error_and_the_end_of_the_log():
    final = event(EventKind.CRASHED, error="RuntimeError: out of shards", rank=3)
    incident = judged(final=final, log_tail=("Traceback", "RuntimeError: out of shards"))
    assert incident is not None
    assert (incident.kind, incident.detail, incident.ranks) == (
        IncidentKind.CRASHED,
        "RuntimeError: out of shards",
        (3,),
    )
    assert incident.lines[1:] == ("Traceback", "RuntimeError: out of shards")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (137, IncidentKind.CRASHED, "left with code 137 without a final event (signal 9)"),
        (1, IncidentKind.CRASHED, "left with code 1 without a final event"),
        (0, IncidentKind.CRASHED, "left with 0 but without a final event"),
        (ExitCode.REFUSED, IncidentKind.CRASHED, "refused to start"),
        (ExitCode.FENCED, IncidentKind.FENCED, "another job or attempt holds the run"),
    ],
)
def test_an_exit_code_speaks_where_the_trainer_did_not(code: int, kind: IncidentKind, words: str):
    incident = judged(exit=Exit(code=code, time=NOW), log_tail=("Killed",))
    assert incident is not None
    assert incident.kind is kind
    assert incident.detail.removesuffix(": attempt.json, its parent or the data cannot be used") == words
    assert incident.lines == (f"exit.json: code {code}", "Killed")


def test_stopped_with_a_checkpoint_is_no_crash():
    final = event(EventKind.STOPPED, signal="SIGTERM", checkpoint="steps/step_34.pt")
    incident = judged(final=final, exit=Exit(code=ExitCode.STOPPED, time=NOW))
    assert incident is not None
    assert incident.kind is IncidentKind.STOPPED
    assert "steps/step_34.pt" in incident.lines[0]


@pytest.mark.parametrize(
    "known",
    [
        {"final": event(EventKind.STOPPED, signal="SIGTERM")},
        {"exit": Exit(code=143, time=NOW)},
        {"missing_since": NOW - 180},
        {"job": report(JobState.CANCELLED)},
    ],
    ids=["stopped", "killed", "gone", "by the scheduler's word"],
)
def test_an_end_that_was_asked_for_is_a_cancel(known: dict[str, Any]):
    incident = judged(cancel_requested=True, **known)
    assert incident is not None
    assert incident.kind is IncidentKind.CANCELLED_BY_USER


def test_completed_wins_over_a_cancel_that_came_too_late():
    assert judged(final=event(EventKind.COMPLETED, seconds=3), cancel_requested=True) is None


def test_lost_is_silence_over_answers_that_span_the_patience():
    beat = Heartbeat(counter=3, phase=Phase.TRAINING, epoch=2, step=40, samples_seen=2560, time=0.0)
    incident = judged(claimed=True, missing_since=NOW - 180, progress=event(EventKind.PROGRESS), heartbeat=beat)
    assert incident is not None
    assert (incident.kind, incident.step) == (IncidentKind.LOST, 34)
    assert incident.lines == (
        "absent from every answer of the scheduler for 180 s",
        "no final event, no exit.json",
        "last heartbeat: training, epoch 2, step 40",
    )


def test_the_schedulers_own_verdict_needs_no_patience():
    incident = judged(job=report(JobState.NODE_FAIL))
    assert incident is not None
    assert incident.lines[0] == "scheduler: job 17 NODE_FAIL"


@pytest.mark.parametrize(
    "known",
    [
        {"job": report(JobState.RUNNING)},
        {"job": report(JobState.COMPLETING)},
        {"job": report(JobState.UNKNOWN)},
        {"job": report(JobState.RUNNING), "cancel_requested": True},
        {"missing_since": NOW - 179},
        {"missing_since": None},
        {"missing_since": NOW - 9999, "observed": False},
        {"missing_since": NOW - 9999, "observed": False, "cancel_requested": True},
    ],
)
def test_what_is_alive_or_not_known_is_no_incident(known: dict[str, Any]):
    assert judged(**known) is None


def test_a_submission_without_an_answer_may_still_arrive_where_silence_otherwise_says_all():
    at_once = Limits(lost_after=0.0)
    unanswered = evidence(submitted=False, missing_since=NOW - 179)
    assert diagnose(unanswered, at_once, now=NOW) is None
    assert diagnose(replace(unanswered, claimed=True), at_once, now=NOW) is not None
    assert diagnose(replace(unanswered, submitted=True), at_once, now=NOW) is not None
    assert diagnose(replace(unanswered, missing_since=NOW - 180), at_once, now=NOW) is not None


def test_a_submission_without_an_answer_that_never_showed_up():
    incident = judged(submitted=False, claimed=False, missing_since=NOW - 200)
    assert incident is not None
    assert (incident.kind, incident.detail) == (IncidentKind.LOST, "never reached the scheduler")


# --- what Slurm says --------------------------------------------------------------------------------

SAVED = event(EventKind.STOPPED, signal=15, checkpoint="steps/step_34.pt")
WARNED = event(EventKind.STOPPED, signal=10, checkpoint="steps/step_34.pt")
BROKEN = event(EventKind.CRASHED, error="ConnectionResetError: a rank is gone", rank=0)
PREEMPTED = replace(report(JobState.RUNNING), preempted_at=NOW - 30)  # as the job's own script saw it
ME, ROOT = 1000, 0


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        # a preemption in its four disguises
        ({"job": report(JobState.PREEMPTED)}, IncidentKind.PREEMPTED),
        ({"job": report(JobState.PREEMPTED), "final": SAVED}, IncidentKind.PREEMPTED),
        ({"job": report(JobState.FAILED), "final": SAVED, "at_exit": PREEMPTED}, IncidentKind.PREEMPTED),
        ({"job": report(JobState.COMPLETED), "at_exit": PREEMPTED}, IncidentKind.PREEMPTED),
        ({"job": None, "exit": Exit(code=143, time=NOW), "at_exit": PREEMPTED}, IncidentKind.PREEMPTED),
        # wall time, with and without the save before it
        ({"job": report(JobState.TIMEOUT)}, IncidentKind.TIMED_OUT),
        ({"job": report(JobState.FAILED), "final": WARNED}, IncidentKind.TIMED_OUT),
        ({"final": WARNED, "exit": Exit(code=85, time=NOW)}, IncidentKind.TIMED_OUT),
        ({"job": report(JobState.DEADLINE)}, IncidentKind.TIMED_OUT),
        # a node's death is not the trainer's fault, even where a rank could still say what it saw of it
        ({"job": report(JobState.NODE_FAIL)}, IncidentKind.NODE_FAILED),
        ({"job": report(JobState.NODE_FAIL), "final": BROKEN}, IncidentKind.NODE_FAILED),
        ({"job": report(JobState.OUT_OF_MEMORY), "final": BROKEN}, IncidentKind.OUT_OF_MEMORY),
        # scancel, by whom
        ({"job": replace(report(JobState.CANCELLED), cancelled_by=ME)}, IncidentKind.CANCELLED_BY_USER),
        ({"job": replace(report(JobState.CANCELLED), cancelled_by=ME), "final": SAVED}, IncidentKind.CANCELLED_BY_USER),
        ({"job": replace(report(JobState.CANCELLED), cancelled_by=ROOT)}, IncidentKind.CANCELLED_BY_ADMIN),
        ({"job": report(JobState.CANCELLED)}, IncidentKind.CANCELLED_BY_ADMIN),
        # a state is no cause: the trainer's word and the exit code count
        ({"job": report(JobState.FAILED), "final": SAVED}, IncidentKind.STOPPED),
        ({"job": report(JobState.FAILED), "final": BROKEN}, IncidentKind.CRASHED),
        ({"job": report(JobState.COMPLETED), "exit": Exit(code=0, time=NOW)}, IncidentKind.CRASHED),
        ({"job": report(JobState.FAILED), "exit": Exit(code=87, time=NOW)}, IncidentKind.FENCED),
        ({"job": report(JobState.FAILED)}, IncidentKind.LOST),
        ({"job": report(JobState.NODE_FAIL), "final": NAN, "diverged": NAN}, IncidentKind.DIVERGED),
    ],
)
def test_the_schedulers_verdict_and_the_trainers_word(known: dict[str, Any], kind: IncidentKind):
    incident = judged(uid=ME, claimed=True, **known)
    assert incident is not None
    assert incident.kind is kind
    assert incident.lines


@pytest.mark.parametrize(
    "known",
    [
        {"job": report(JobState.COMPLETING), "final": BROKEN},
        {"job": report(JobState.RUNNING), "final": SAVED, "exit": Exit(code=85, time=NOW)},
        {"final": BROKEN, "exit": Exit(code=1, time=NOW), "at_exit": report(JobState.RUNNING), "observed": False},
    ],
    ids=["still completing", "still listed", "not answering"],
)
def test_a_cause_is_waited_for_while_the_scheduler_may_yet_name_one(known: dict[str, Any]):
    assert judged(**known) is None


def test_a_completed_run_is_completed_whatever_slurm_says():
    done = event(EventKind.COMPLETED, seconds=3)
    for state in (JobState.FAILED, JobState.NODE_FAIL, JobState.TIMEOUT, JobState.CANCELLED):
        assert judged(final=done, job=report(state), uid=ME) is None
