"""Which nodes an end is blamed on: by the scheduler's word on them, else by srun's in the log, else on none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clipctl.diagnose import diagnose
from clipctl.domain import ENDED_STATES, Incident, JobState
from tests.policy.test_diagnose import LIMITS, NOW, SAVED, event, evidence, report
from trainer.contract import EventKind, Exit

DOWN = {"n4": "DOWN, Not responding", "n9": "DOWN, Not responding"}
LOST = ("srun: error: Node failure on n4", "srun: got SIGCONT", "srun: error: n5: task 2: Terminated")
NOT_LAUNCHED = (
    "srun: error: Task launch for StepId=17.0 failed on node n4: Job prolog failed",
    "srun: error: Task launch for StepId=17.0 failed on node n9: Unspecified error",
    "srun: error: Task launch for StepId=17.0 failed on node n4: Job prolog failed",
    "srun: error: Application launch failed: Job prolog failed",
)
PRINTED = ("rank 3: srun: error: Node failure on n4", "Traceback (most recent call last):")


def judged(state: JobState, failed: dict[str, str], log: tuple[str, ...] = (), **more: Any) -> Incident:
    job = replace(report(state), failed_nodes=failed)
    incident = diagnose(evidence(job=job, claimed=True, uid=0, log_tail=log, **more), LIMITS, now=NOW)
    assert incident is not None
    return incident


TABLE = """
state      scheduler  log       kind                nodes
NODE_FAIL  DOWN       -         node_failed         n4,n9
NODE_FAIL  DOWN       PRINTED   node_failed         n4,n9
NODE_FAIL  -          LOST      node_failed         n4
NODE_FAIL  -          PRINTED   node_failed         -
NODE_FAIL  -          -         node_failed         -
BOOT_FAIL  DOWN       -         node_failed         n4,n9
CANCELLED  DOWN       -         node_failed         n4,n9
CANCELLED  -          LOST      cancelled_by_admin  -
FAILED     DOWN       -         node_failed         n4,n9
FAILED     -          LAUNCH    node_failed         n4,n9
FAILED     -          LOST      node_failed         n4
FAILED     -          PRINTED   crashed             -
COMPLETED  -          LAUNCH    node_failed         n4,n9
TIMEOUT    -          LOST      timed_out           -
"""
WORDS = {"-": (), "LOST": LOST, "LAUNCH": NOT_LAUNCHED, "PRINTED": PRINTED}


@pytest.mark.parametrize("row", TABLE.strip().splitlines()[1:])
def test_whom_an_end_is_blamed_on(row: str) -> None:
    state, scheduler, log, kind, nodes = row.split()
    failed = DOWN if scheduler == "DOWN" else {}
    incident = judged(JobState(state), failed, WORDS[log], exit=Exit(code=1, time=NOW))
    assert (incident.kind, ",".join(incident.nodes) or "-") == (kind, nodes)
    assert all(node in incident.detail for node in incident.nodes)


def test_the_schedulers_word_on_each_node_is_evidence() -> None:
    lines = judged(JobState.NODE_FAIL, DOWN).lines
    assert lines[1:] == ("scheduler: node n4 DOWN, Not responding", "scheduler: node n9 DOWN, Not responding")


def test_a_job_that_a_person_cancelled_is_nobody_elses_doing() -> None:
    incident = judged(JobState.CANCELLED, DOWN, cancel_requested=True)
    assert (incident.kind, incident.nodes) == ("cancelled_by_user", ())


@pytest.mark.parametrize("state", sorted(ENDED_STATES - {JobState.PREEMPTED}))
def test_a_trainer_that_saved_before_its_node_died_changes_nothing_about_the_node(state: JobState) -> None:
    assert judged(state, DOWN, final=SAVED).nodes == ("n4", "n9")


@pytest.mark.parametrize(
    ("known", "ranks"),
    [
        ({"exit": Exit(code=137, time=NOW), "left_first": 3}, (3,)),
        ({"exit": Exit(code=137, time=NOW)}, ()),
        ({"final": event(EventKind.CRASHED, error="ConnectionError: rank 3 has left", rank=0), "left_first": 3}, (3,)),
        ({"final": event(EventKind.CRASHED, error="ConnectionError: rank 3 has left", rank=0)}, (0,)),
        ({"final": event(EventKind.CRASHED, error="ValueError: no such column", rank=0), "left_first": 3}, (0,)),
    ],
)
def test_a_rank_that_only_heard_of_anothers_end_is_not_named(known: dict[str, Any], ranks: tuple[int, ...]) -> None:
    """Rank 0 writes the last word; the script saw who went first."""
    incident = judged(JobState.FAILED, {}, **known)
    assert (incident.kind, incident.ranks) == ("crashed", ranks)
