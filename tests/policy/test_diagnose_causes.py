"""What an error's text gives away, and when a log is asked."""

from __future__ import annotations

from typing import Any

import pytest

from clipctl.diagnose import diagnose
from clipctl.domain import Form, Incident, IncidentKind, JobState
from tests.policy.test_diagnose import LIMITS, NOW, event, evidence, report
from trainer.contract import EventKind, Exit, ExitCode

FULL = "OSError: [Errno 28] No space left on device: 'steps/.step_34.pt.tmp'"


def judged(**known: Any) -> Incident:
    incident = diagnose(evidence(claimed=True, **known), LIMITS, now=NOW)
    assert incident is not None
    return incident


def crashed(error: str) -> dict[str, Any]:
    return {"final": event(EventKind.CRASHED, error=error, rank=3), "job": report(JobState.FAILED)}


@pytest.mark.parametrize(
    ("error", "kind", "form", "passes"),
    [
        (FULL, IncidentKind.STORAGE, None, False),
        ("OSError: [Errno 122] Disk quota exceeded", IncidentKind.STORAGE, None, False),
        ("OSError: [Errno 5] Input/output error: '/data/00007.tar'", IncidentKind.STORAGE, None, True),
        ("OSError: [Errno 116] Stale file handle", IncidentKind.STORAGE, None, True),
        ("RuntimeError: PytorchStreamWriter failed writing file data/17", IncidentKind.STORAGE, None, False),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", IncidentKind.OUT_OF_MEMORY,
         Form.GPU_MEMORY, True),
        ("RuntimeError: CUDA error: out of memory", IncidentKind.OUT_OF_MEMORY, Form.GPU_MEMORY, True),
        ("MemoryError: ", IncidentKind.OUT_OF_MEMORY, Form.HOST_MEMORY, True),
        ("RuntimeError: DataLoader worker (pid 71) is killed by signal: Killed.", IncidentKind.OUT_OF_MEMORY,
         Form.HOST_MEMORY, True),
        ("37 of 800 samples cannot be used, more than data.max_bad_fraction 0.01", IncidentKind.BAD_DATA, None, False),
        ("DataError: 8 shards in a row gave no image-text pair, at last 7.tar", IncidentKind.BAD_DATA, None, False),
        ("DataError: a batch without one usable sample, from 7.tar", IncidentKind.BAD_DATA, None, False),
        ("RuntimeError: shape [28] is not [5]", IncidentKind.CRASHED, None, True),
    ],
)  # fmt: skip
def test_an_error_says_what_ran_out(error: str, kind: IncidentKind, form: Form | None, passes: bool) -> None:
    incident = judged(**crashed(error))
    assert (incident.kind, incident.form, incident.passes) == (kind, form, passes)
    assert error in incident.lines[0]


def test_the_schedulers_verdict_outranks_an_error_that_follows_from_it() -> None:
    told = crashed(FULL) | {"job": report(JobState.NODE_FAIL)}
    assert judged(**told).kind is IncidentKind.NODE_FAILED


def test_a_log_speaks_where_nobody_else_does() -> None:
    log = ("Traceback (most recent call last):", FULL, "rank 3 left with code 1")
    for silent in ({"exit": Exit(code=1, time=NOW)}, {"job": report(JobState.FAILED)}):
        incident = judged(log_tail=log, **silent)
        assert (incident.kind, incident.detail) == (IncidentKind.STORAGE, FULL)
        assert incident.lines[-3:] == log


def test_a_log_explains_a_rank_that_only_heard_of_anothers_end() -> None:
    log = ("rank 3 left with code 1; 3 others have 30 s", "torch.OutOfMemoryError: CUDA out of memory.")
    gone = judged(**crashed("ConnectionError: rank 3 has left"), log_tail=log)
    assert (gone.kind, gone.form) == (IncidentKind.OUT_OF_MEMORY, Form.GPU_MEMORY)
    own = judged(**crashed("ValueError: no such column"), log_tail=log)
    assert (own.kind, own.detail) == (IncidentKind.CRASHED, "ValueError: no such column")


def test_a_start_that_was_refused_would_be_refused_again() -> None:
    refused = Exit(code=ExitCode.REFUSED, time=NOW)
    assert not judged(exit=refused).passes
    assert not judged(**crashed("epoch_68.pt: not what its manifest says"), exit=refused).passes
    assert judged(exit=Exit(code=1, time=NOW)).passes
