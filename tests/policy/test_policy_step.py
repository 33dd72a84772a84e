"""From evidence to a decision: what one look at a run leads to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clipctl.domain import (
    Decision,
    Evidence,
    Hold,
    IncidentKind as Kind,
    JobReport,
    JobState,
    Limits,
    RecoverySpec,
    Resubmit,
    RunState,
    Stop,
    Wait,
)
from clipctl.policy import step
from tests.policy.records import attempt, checkpoint, ended, history
from trainer.contract import Event, EventKind, Exit, ExitCode

NOW = 1e6
RUNNING = JobReport(nonce="abc", scheduler_id="17", state=JobState.RUNNING, raw="RUNNING")
SAVED = (checkpoint(1, 1), checkpoint(1, 2))


def seen(incident: Any = None, *, live: bool, **known: Any) -> tuple[Kind | None, Decision]:
    """`incident`: what the store has of the attempt from an earlier look."""
    one = attempt(1, incident=incident, live=live, ended_at=None if live else NOW, incident_at=NOW - 60)
    past = history(one, checkpoints=SAVED, state=RunState.RUNNING if live else RunState.STOPPED)
    facts = {"attempt": 1, "time": NOW, "job": None, "observed": True, "submitted": True, "claimed": True} | known
    found, decision = step(past, Evidence(**facts), Limits(), RecoverySpec(), now=NOW)
    return None if found is None else found.kind, decision


def crash(error: str) -> Event:
    return Event(seq=9, time=NOW, kind=EventKind.CRASHED, epoch=3, step=34, samples_seen=2176, facts={"error": error})


HUNG = ended(1, Kind.HUNG, detail="no step for 31m", alive=True)


def test_what_troubled_a_job_and_has_passed_is_no_trouble():
    kind, decision = seen(HUNG, live=True, job=RUNNING)
    assert kind is None and isinstance(decision, Wait)


def test_what_troubled_a_job_that_is_gone_is_how_it_ended():
    """It was stopped: that the scheduler calls it cancelled says nothing."""
    cancelled = replace(RUNNING, state=JobState.CANCELLED)
    kind, decision = seen(HUNG, live=False, job=cancelled, stop_requested=True)
    assert kind is None and isinstance(decision, Resubmit)
    assert decision.basis == "hung; the newest good checkpoint, same settings"


def test_without_evidence_the_store_has_the_last_word():
    one = attempt(1, incident=HUNG, live=True, ended_at=None)
    past = history(one, checkpoints=SAVED, state=RunState.RUNNING)
    assert isinstance(step(past, None, Limits(), RecoverySpec(), now=NOW)[1], Stop)


@pytest.mark.parametrize(
    ("known", "kind", "words"),
    [
        ({"exit": Exit(code=ExitCode.REFUSED, time=NOW)}, Kind.CRASHED, "a restart would not help"),
        ({"final": crash("CUDA out of memory. Tried to allocate")}, Kind.OUT_OF_MEMORY, "out of GPU memory"),
        ({"final": crash("OSError: [Errno 28] No space left on device")}, Kind.STORAGE, "a restart would not help"),
        ({"final": crash("37 of 800 samples cannot be used")}, Kind.BAD_DATA, "bad data: 37 of 800 samples"),
    ],
)
def test_what_a_restart_would_not_cure_waits_for_a_person(known: dict[str, Any], kind: Kind, words: str):
    found, decision = seen(live=False, **known)
    assert found is kind and isinstance(decision, Hold)
    assert words in decision.basis


def test_a_nodes_memory_gets_one_more_try():
    found, decision = seen(live=False, final=crash("MemoryError"))
    assert found is Kind.OUT_OF_MEMORY and isinstance(decision, Resubmit)
