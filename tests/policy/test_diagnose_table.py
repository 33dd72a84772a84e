"""Every state that Slurm knows, with everything that else may be known: what became of the attempt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from clipctl.diagnose import diagnose
from clipctl.domain import ENDED_STATES, Form, Incident, IncidentKind, JobState, Limits
from tests.policy.losses import at, evidence as with_losses, points, until, usual
from tests.policy.test_diagnose import BROKEN, LIMITS, NAN, NOW, SAVED, WARNED, event, evidence, report
from trainer.contract import EventKind, Exit, Heartbeat, Phase

UNSAVED = event(EventKind.STOPPED, signal=15, checkpoint=None)  # the loss was not finite: there is none of this step
FULL = event(EventKind.CRASHED, error="OSError: [Errno 28] No space left on device", rank=0)
BEAT = Heartbeat(counter=3, phase=Phase.TRAINING, epoch=2, step=40, samples_seen=2560, time=0.0)
STUCK = with_losses(points(until(at(75), usual, lambda step: 11.1), 72, 76)).series

KNOWN: Mapping[str, Mapping[str, Any]] = {
    "nothing": {},
    "progress": {"progress": event(EventKind.PROGRESS), "heartbeat": BEAT},
    "saved": {"final": SAVED},
    "unsaved": {"final": UNSAVED},
    "warned": {"final": WARNED},
    "crashed": {"final": BROKEN},
    "full": {"final": FULL},
    "complete": {"final": event(EventKind.COMPLETED)},
    "nan": {"final": NAN, "diverged": NAN},
    "stuck": {"series": STUCK, "attempt": 1},
    "code 0": {"exit": Exit(code=0, time=NOW)},
    "code 1": {"exit": Exit(code=1, time=NOW)},
    "asked": {"cancel_requested": True, "final": SAVED},  # by a person
    "ended": {"stop_requested": True, "final": SAVED},  # by a decision
}
SHORT = {
    "-": None, "nan": "diverged", "high": "diverged", "crash": "crashed", "stop": "stopped", "pre": "preempted",
    "time": "timed_out", "node": "node_failed", "mem": "out_of_memory", "lost": "lost", "user": "cancelled_by_user",
    "adm": "cancelled_by_admin", "disk": "storage",
}  # fmt: skip
# nan: diverged, and its form is nan; high: diverged, stuck on a plateau. Small letters only: the job is over.
# HIGH: told of a job that goes on. A user's cancel outranks what the losses say, as it is final.
TABLE = """
              nothing progress saved unsaved warned crashed full  complete nan  stuck code_0 code_1 asked ended
PENDING       -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
CONFIGURING   -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
RUNNING       -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
SUSPENDED     -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
STOPPED       -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
SIGNALING     -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
STAGE_OUT     -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
COMPLETING    -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
REQUEUED      -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
REQUEUE_FED   -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
REQUEUE_HOLD  -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
RESV_DEL_HOLD -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
SPECIAL_EXIT  -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
RESIZING      -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
UNKNOWN       -       -        -     -       -      -       -     -        nan  HIGH  -      -      -     -
COMPLETED     lost    lost     stop  stop    time   crash   disk  -        nan  high  crash  crash  user  -
FAILED        lost    lost     stop  stop    time   crash   disk  -        nan  high  crash  crash  user  -
REVOKED       lost    lost     stop  stop    time   crash   disk  -        nan  high  crash  crash  user  -
CANCELLED     adm     adm      adm   adm     adm    adm     adm   -        nan  adm   adm    adm    user  -
TIMEOUT       time    time     time  time    time   time    time  -        nan  high  time   time   user  -
DEADLINE      time    time     time  time    time   time    time  -        nan  high  time   time   user  -
PREEMPTED     pre     pre      pre   pre     pre    pre     pre   -        nan  high  pre    pre    user  -
NODE_FAIL     node    node     node  node    node   node    node  -        nan  high  node   node   user  -
BOOT_FAIL     node    node     node  node    node   node    node  -        nan  high  node   node   user  -
OUT_OF_MEMORY mem     mem      mem   mem     mem    mem     mem   -        nan  high  mem    mem    user  -
"""


def cells() -> Iterator[tuple[str, str, str]]:
    head, *rows = TABLE.strip("\n").splitlines()
    columns = [name.replace("_", " ") for name in head.split()]
    for row in rows:
        state, *told = row.split()
        yield from ((state, known, word) for known, word in zip(columns, told, strict=True))


def judged(state: JobState, known: str) -> Incident | None:
    seen = evidence(job=report(state), claimed=True, uid=1000, **KNOWN[known])
    return diagnose(seen, LIMITS, now=NOW)


def test_the_table_has_every_state_and_everything_that_may_be_known() -> None:
    assert {(state, known) for state, known, _ in cells()} == {(state, known) for state in JobState for known in KNOWN}


@pytest.mark.parametrize("state", JobState)
def test_what_became_of_the_attempt(state: JobState) -> None:
    for name, known, word in cells():
        if name != state:
            continue
        incident = judged(state, known)
        assert (incident.kind if incident else None) == SHORT[word.lower()], f"{state}, {known}: {incident}"
        if incident is not None:
            assert incident.lines, "evidence that a person can check"
            assert incident.alive == (word == "HIGH")
            forms = {"nan": Form.NAN, "high": Form.PLATEAU, "mem": Form.HOST_MEMORY}
            assert incident.form == forms.get(word.lower())


@pytest.mark.parametrize("state", sorted(ENDED_STATES))
def test_a_job_that_ended_a_moment_ago_is_waited_for(state: JobState) -> None:
    """Accounting is about to say who cancelled it, or that it was preempted."""
    unsettled = report(state).__class__(**vars(report(state)) | {"settled": False})
    for known in ("nothing", "saved", "crashed", "code 1", "asked"):
        assert diagnose(evidence(job=unsettled, claimed=True, **KNOWN[known]), LIMITS, now=NOW) is None


@pytest.mark.parametrize("known", KNOWN)
def test_a_scheduler_that_does_not_answer_ends_nothing_by_itself(known: str) -> None:
    """Only the trainer's own word, or exit.json on a machine whose scheduler tells it nothing more, ends an attempt."""
    seen = evidence(job=None, observed=False, missing_since=NOW - 9999, **KNOWN[known])
    incident = diagnose(seen, Limits(), now=NOW)
    told = {"final", "exit"} & KNOWN[known].keys()
    assert incident is None or incident.alive or told
    if known in ("nothing", "progress"):
        assert incident is None
    assert IncidentKind.LOST not in {incident.kind if incident else None}
