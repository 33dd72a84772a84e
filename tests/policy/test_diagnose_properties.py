"""Whatever is known or missing: no crash, and nothing is called over that nobody has called over."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from hypothesis import given, strategies as st

from clipctl.diagnose import diagnose, early_signs
from clipctl.domain import Evidence, JobReport, JobState, Limits, Pulse, Series
from clipctl.series import Point
from trainer.contract import Event, EventKind, Exit, Heartbeat, Phase

NOW = 1e6
LIMITS = Limits()
ODD = st.sampled_from([0, -1, 1, 2**53, 0.0, -0.0, 1e308, float("nan"), float("inf"), -float("inf")])
FACT = st.one_of(st.none(), st.booleans(), ODD, st.text(max_size=8), st.lists(ODD, max_size=3))
FACT_NAMES = (
    "loss",
    "cause",
    "ranks",
    "error",
    "signal",
    "checkpoint",
    "step_in_epoch",
    "samples_per_second",
    "rank",
    "batch_size",
)
STEPS = st.integers(0, 10_000)


@st.composite
def events(draw: st.DrawFn, *kinds: str) -> Event:
    facts = draw(st.dictionaries(st.sampled_from(FACT_NAMES), FACT, max_size=4))
    step = draw(STEPS)
    return Event(seq=1, time=0.0, kind=draw(st.sampled_from(kinds)), epoch=1, step=step, samples_seen=step, facts=facts)


@st.composite
def reports(draw: st.DrawFn) -> JobReport:
    state = draw(st.sampled_from(JobState))
    reason = draw(st.sampled_from(["", "Priority", "InvalidAccount", "PartitionConfig", "None"]) | st.text(max_size=9))
    return JobReport(
        nonce="n", scheduler_id="17", state=state, raw=state, reason=reason, settled=draw(st.booleans()),
        cancelled_by=draw(st.none() | st.integers(0, 2)), preempted_at=draw(st.none() | st.just(1.0)),
        node_count=draw(st.none() | st.just(97)), partition_nodes=draw(st.none() | st.just(96)),
        failed_nodes=draw(st.just({}) | st.just({"n4": "DOWN, Not responding"})),
    )  # fmt: skip


@st.composite
def series(draw: st.DrawFn) -> Series:
    number = st.floats(allow_nan=True, allow_infinity=True)
    points = tuple(
        Point(
            attempt=draw(st.integers(1, 2)), seq=index, epoch=1 + index // 10, step=index, step_in_epoch=index % 10,
            steps_per_epoch=draw(st.sampled_from([0, 1, 10])), samples_seen=draw(STEPS), since_start=draw(number),
            batch=draw(st.sampled_from([1, 2, 79_872])), loss=draw(number | st.floats(0, 12)),
            grad_norm=draw(st.none() | number), scale=draw(st.none() | number), pace=draw(st.none() | number),
            waiting=draw(st.none() | number), sparse=draw(st.booleans()),
        )
        for index in range(draw(st.integers(0, 16)))
    )  # fmt: skip
    return Series(points=points, warmup=draw(st.integers(0, 3)))


@st.composite
def beats(draw: st.DrawFn) -> Heartbeat:
    return Heartbeat(
        counter=draw(STEPS), phase=draw(st.sampled_from(Phase)), epoch=1, step=1, samples_seen=1, time=draw(ODD)
    )


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    seconds = st.floats(0, 1e5)
    optional: dict[str, Any] = {
        "exit": st.builds(Exit, code=st.integers(0, 255), time=st.just(NOW)),
        "at_exit": reports(),
        "final": events(EventKind.STOPPED, EventKind.CRASHED, EventKind.COMPLETED, EventKind.DIVERGED),
        "diverged": events(EventKind.DIVERGED),
        "progress": events(EventKind.PROGRESS),
        "started": events(EventKind.STARTED),
        "heartbeat": beats(),
        "pulse": st.builds(
            Pulse, looked_at=st.just(NOW), counter=st.none() | STEPS, silent_for=seconds, idle_for=seconds
        ),
        "series": series(),
        "missing_since": st.floats(-2e6, 2e6),
        "uid": st.integers(0, 2),
    }
    return Evidence(
        attempt=1, time=NOW, job=draw(st.none() | reports()), observed=draw(st.booleans()),
        submitted=draw(st.booleans()), claimed=draw(st.booleans()), cancel_requested=draw(st.booleans()),
        stop_requested=draw(st.booleans()), log_tail=tuple(draw(st.lists(st.text(max_size=30), max_size=2))),
        left_first=draw(st.none() | st.just(3)),
        **{name: draw(st.none() | drawn) for name, drawn in optional.items()},
    )  # fmt: skip


@given(evidence())
def test_any_evidence_is_judged_without_a_crash_and_with_lines(seen: Evidence) -> None:
    incident = diagnose(seen, LIMITS, now=NOW)
    assert all(early_signs(seen, LIMITS))
    if incident is not None:
        assert incident.attempt == 1
        assert all(isinstance(line, str) for line in (incident.detail, *incident.lines))


@given(evidence())
def test_nothing_is_over_that_nobody_called_over(seen: Evidence) -> None:
    """Somebody: the trainer's last word or its divergence, exit.json, the scheduler, or its silence for long enough."""
    incident = diagnose(seen, LIMITS, now=NOW)
    if incident is None or incident.alive:
        return
    silent = seen.observed and seen.job is None and seen.missing_since is not None
    told = [seen.final, seen.diverged, seen.exit]
    assert any(told) or (seen.job is not None and seen.job.over) or (silent and NOW - (seen.missing_since or 0) >= 180)
    if seen.job is not None and not seen.job.over:
        assert seen.diverged is not None, "a job that goes on is over only by its own divergence"


@given(evidence(), st.sets(st.sampled_from(["exit", "at_exit", "final", "diverged", "job", "missing_since"])))
def test_knowing_less_never_ends_what_was_not_over(seen: Evidence, forgotten: set[str]) -> None:
    """As when a file is not shown yet, or the scheduler does not answer."""
    known = diagnose(seen, LIMITS, now=NOW)
    completed = seen.final is not None and seen.final.kind == EventKind.COMPLETED
    if completed or (known is not None and not known.alive):
        return
    less = replace(seen, **dict.fromkeys(forgotten), **({"observed": False} if "job" in forgotten else {}))
    incident = diagnose(less, LIMITS, now=NOW)
    still_told = any((less.final, less.diverged, less.exit))
    assert incident is None or incident.alive or still_told


def test_the_properties_draw_every_field_of_the_evidence() -> None:
    drawn = {"attempt", "time", "job", "observed", "submitted", "claimed", "cancel_requested", "stop_requested"}
    drawn |= {
        "log_tail",
        "left_first",
        "exit",
        "at_exit",
        "final",
        "diverged",
        "progress",
        "started",
        "heartbeat",
        "pulse",
    }
    assert {field.name for field in fields(Evidence)} == drawn | {"series", "missing_since", "uid"}
