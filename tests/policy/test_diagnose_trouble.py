"""A job that goes on and gets nowhere: it hangs, waits for what never comes, or crawls."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest

from clipctl.diagnose import diagnose
from clipctl.diagnose.trouble import seconds_per_step
from clipctl.domain import Evidence, Incident, IncidentKind, JobReport, JobState, Limits, Patience, Pulse
from clipctl.pulse import felt
from tests.policy.losses import RUNNING, evidence as with_losses, points, usual
from trainer.contract import Event, EventKind, Heartbeat, Phase

PATIENCE = Patience(starting=1800, training=600, steps=20, checkpointing=900, evaluating=3600, look=300)
LIMITS = Limits(claim_wait=600, patience=PATIENCE)
STARTED = Event(
    seq=1, time=0.0, kind=EventKind.STARTED, epoch=1, step=0, samples_seen=0, facts={"batch_size": 208, "ranks": 384}
)


def beat(counter: int, phase: Phase = Phase.TRAINING, samples: int = 5000) -> Heartbeat:
    return Heartbeat(counter=counter, phase=phase, epoch=2, step=50, samples_seen=samples, time=0.0)


def progress(pace: float) -> Event:
    facts = {"samples_per_second": pace, "step_in_epoch": 50}
    return Event(seq=2, time=0.0, kind=EventKind.PROGRESS, epoch=2, step=50, samples_seen=5000, facts=facts)


def judged(
    now: Heartbeat | None, pulse: Pulse, *, job: JobReport | None = RUNNING, pace: float | None = None
) -> Incident | None:
    seen = Evidence(
        attempt=1, time=1e6, job=job, observed=job is not None, submitted=True, heartbeat=now, pulse=pulse,
        started=STARTED, progress=progress(pace) if pace else None,
    )  # fmt: skip
    return diagnose(seen, LIMITS, now=seen.time)


def looked(beats: Iterable[Heartbeat | None], every: float, *, running: bool = True) -> Pulse:
    """After looks at these heartbeats, `every` so many seconds."""
    pulse = None
    for number, found in enumerate(beats):
        pulse = felt(pulse, found, now=1000.0 + number * every, running=running, longest=PATIENCE.look)
    assert pulse is not None
    return pulse


# --- hung -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "pace", "patience"),
    [
        (Phase.STARTING, None, 1800),
        (Phase.TRAINING, None, 600),
        (Phase.TRAINING, 27_000.0, 600),  # 3 s a step
        (Phase.TRAINING, 798.72, 2000),  # 100 s a step, twenty of them
        (Phase.CHECKPOINTING, None, 900),
        (Phase.EVALUATING, None, 3600),
    ],
)
def test_each_phase_has_its_own_patience(phase: Phase, pace: float | None, patience: int) -> None:
    still = beat(7, phase)
    for silent, hangs in ((patience - 1, False), (patience, True)):
        pulse = Pulse(looked_at=1e6, counter=7, samples_seen=5000, silent_for=silent, idle_for=silent)
        incident = judged(still, pulse, pace=pace)
        assert (incident is not None) is hangs
        if incident is not None:
            assert (incident.kind, incident.alive) == (IncidentKind.HUNG, True)
            assert incident.detail == f"nothing moved for {patience} s while {phase}"
            assert incident.lines == (
                "scheduler: job 17 RUNNING",
                f"heartbeat 7: {phase}, epoch 2, step 50, 5000 samples; patience {patience} s",
            )


def test_a_step_is_as_long_as_all_its_forward_passes() -> None:
    started = replace(STARTED, facts=STARTED.facts | {"accum_freq": 4})
    seen = Evidence(attempt=1, time=1e6, job=RUNNING, observed=True, submitted=True, started=started)
    assert seconds_per_step(replace(seen, progress=progress(208 * 384))) == 4
    assert seconds_per_step(replace(seen, started=STARTED, progress=progress(208 * 384))) == 1


def test_a_job_without_any_heartbeat_may_wait_for_its_predecessor_first() -> None:
    silence = looked([None] * 9, every=300)
    assert silence.silent_for == 2400
    incident = judged(None, silence)
    assert incident is not None
    assert incident.detail == "no sign of life for 2400 s of running"
    assert judged(None, looked([None] * 8, every=300)) is None


def test_a_heart_that_beats_without_a_sample_is_dead_all_the_same() -> None:
    """A log that grows is no progress."""
    noisy = [beat(counter) for counter in range(12)]
    incident = judged(noisy[-1], looked(noisy, every=60))
    assert incident is not None
    assert incident.detail == "its heart beats, but no sample was seen for 660 s"
    assert judged(noisy[9], looked(noisy[:10], every=60)) is None
    saving = [beat(counter, Phase.CHECKPOINTING) for counter in range(12)]
    assert judged(saving[-1], looked(saving, every=60)) is None, "between two steps there may be a save"
    alive = [beat(counter, samples=5000 + counter) for counter in range(100)]
    assert judged(alive[-1], looked(alive, every=60)) is None


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 86400.0, -1e9])
def test_a_clock_that_jumps_makes_no_hang_and_no_negative_age(jump: float) -> None:
    """Looks a minute apart, and between two of them the reader's clock is set."""
    still, pulse, now = beat(7), None, 1e6
    for number in range(5):
        now += 60 + (jump if number == 2 else 0)
        pulse = felt(pulse, still, now=now, running=True, longest=PATIENCE.look)
        assert pulse.silent_for >= 0
        assert judged(still, pulse) is None
    assert pulse is not None and pulse.silent_for <= 4 * 60 + PATIENCE.look


def test_a_hang_is_found_by_whoever_looks_at_last() -> None:
    """Each look may be another process's: what they know of each other is the pulse that was stored."""
    hung = [beat(7)] * 11
    assert judged(beat(7), looked(hung[:10], every=60)) is None
    incident = judged(beat(7), looked(hung, every=60))
    assert incident is not None and incident.detail == "nothing moved for 600 s while training"


def test_one_movement_begins_the_count_anew_and_a_file_that_is_not_shown_does_not() -> None:
    moved = looked([beat(7)] * 9 + [beat(8)] + [beat(8)] * 3, every=60)
    assert moved.silent_for == 180
    hidden = looked([beat(7)] * 5 + [None, None] + [beat(7)] * 5, every=60)
    assert hidden.silent_for == 540, "a look that showed nothing counts for nothing, in neither direction"


@pytest.mark.parametrize(
    "job",
    [None, *(replace(RUNNING, state=state) for state in (JobState.SUSPENDED, JobState.COMPLETING, JobState.PENDING))],
)
def test_only_a_job_that_the_scheduler_calls_running_can_hang(job: JobReport | None) -> None:
    pulse = Pulse(looked_at=1e6, counter=7, samples_seen=5000, silent_for=99_999, idle_for=99_999)
    assert judged(beat(7), pulse, job=job) is None
    assert looked([beat(7)] * 50, every=60, running=False).silent_for == 0


# --- never runnable ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waits", "detail"),
    [
        ({"reason": "PartitionConfig", "node_count": 97, "partition": "booster", "partition_nodes": 96},
         "asks for 97 nodes, the partition booster gives a job at most 96"),
        ({"reason": "InvalidAccount"}, "its account does not exist"),
        ({"reason": "PartitionTimeLimit"}, "asks for more time than its partition allows"),
        ({"reason": "ReqNodeNotAvail, Reserved for maintenance"}, None),
        ({"reason": "Resources"}, None),
        ({"reason": "PartitionNodeLimit"}, None),
        ({"reason": "JobHeldAdmin"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_a_job_that_waits_for_what_never_comes(waits: dict[str, object], detail: str | None) -> None:
    job = replace(RUNNING, state=JobState.PENDING, raw="PENDING", **waits)
    incident = judged(None, Pulse(looked_at=1e6), job=job)
    assert (incident.detail if incident else None) == detail
    if incident is not None:
        assert (incident.kind, incident.alive, incident.passes) == (IncidentKind.NEVER_RUNNABLE, True, False)
        assert incident.lines == (f"scheduler: job 17 PENDING, reason {job.reason}",)


# --- slow -------------------------------------------------------------------------------------------


def paced(*newest: float | None, usual_pace: float = 27_000.0) -> Evidence:
    series = points(usual, 74, 75)
    tail = [replace(point, pace=pace, waiting=0.9) for point, pace in zip(series[-len(newest) :], newest, strict=True)]
    return with_losses([*(replace(point, pace=usual_pace) for point in series[: -len(newest)]), *tail])


def test_a_pace_far_below_its_own_is_told_with_what_the_time_went_into() -> None:
    seen = paced(9_000.0, 9_100.0, 9_200.0)
    incident = diagnose(seen, LIMITS, now=seen.time)
    assert incident is not None
    assert (incident.kind, incident.alive) == (IncidentKind.SLOW, True)
    assert incident.detail == "9100 samples/s, where 2.7e+04 are its own pace"
    assert incident.lines[-1].endswith("9200 samples/s, 90% of the time waiting for data")


@pytest.mark.parametrize(
    "newest",
    [(9_000.0, 9_000.0, 20_000.0), (14_000.0,) * 3, (9_000.0, 9_000.0), (27_000.0, 1.0), (math.nan,) * 3],
    ids=["not all", "ten percent slower would be float32", "too few", "one stretch", "not told"],
)
def test_what_is_not_slow(newest: tuple[float, ...]) -> None:
    seen = paced(*newest)
    assert diagnose(seen, LIMITS, now=seen.time) is None


def waits(*newest: tuple[int | None, float | None], nodes: object = None) -> Evidence:
    series = points(usual, 74, 75)
    tail = [replace(point, slowest=rank, behind=part) for point, (rank, part) in zip(series[-3:], newest, strict=True)]
    started = Event(time=0.0, seq=1, kind=EventKind.STARTED, epoch=74, step=0, samples_seen=0, facts={"nodes": nodes})
    return replace(with_losses([*series[:-3], *tail]), started=started)


NODES = ["jwb0001", "jwb0001", "jwb0002", "jwb0002"]


@pytest.mark.parametrize(
    ("nodes", "named"), [(NODES, "rank 2 on jwb0002"), (NODES[:2], "rank 2"), (None, "rank 2")],
    ids=["told", "too few", "not told"],
)  # fmt: skip
def test_one_rank_that_all_wait_for_is_named_though_the_pace_was_never_better(nodes: object, named: str) -> None:
    seen = waits((2, 0.6), (2, 0.7), (2, 0.8), nodes=nodes)
    incident = diagnose(seen, LIMITS, now=seen.time)
    assert incident is not None
    assert (incident.kind, incident.alive, incident.ranks) == (IncidentKind.SLOW, True, (2,))
    assert incident.detail == f"all wait for {named} for 70% of the time"
    assert incident.lines[-1].endswith("1% of the time waiting for data, 80% of it waiting for rank 2")


@pytest.mark.parametrize(
    "newest",
    [((2, 0.6), (1, 0.6), (2, 0.6)), ((2, 0.6), (2, 0.4), (2, 0.6)), ((2, 0.5),) * 3, ((None, None),) * 3],
    ids=["now one, now another", "not always", "half", "not told"],
)
def test_ranks_that_differ_as_ranks_do_are_not_slow(newest: tuple[tuple[int | None, float | None], ...]) -> None:
    seen = waits(*newest, nodes=NODES)
    assert diagnose(seen, LIMITS, now=seen.time) is None


def test_a_pace_is_not_compared_with_that_of_other_settings() -> None:
    seen = paced(*(9_000.0,) * 6)
    assert seen.series is not None
    own = tuple(replace(p, pace=p.pace if p.pace == 9_000.0 else None) for p in seen.series.points)
    seen = replace(seen, series=replace(seen.series, points=own))
    assert diagnose(seen, LIMITS, now=seen.time) is None


# --- cannot save ------------------------------------------------------------------------------------


def test_a_checkpoint_that_its_disk_refused_troubles_a_job_until_the_next_one_is_there() -> None:
    def told(**facts: object) -> Evidence:
        event = replace(progress(100.0), facts={"step_in_epoch": 50, **facts})
        return Evidence(attempt=1, time=1e6, job=RUNNING, observed=True, submitted=True, progress=event)

    said = "steps/step_50.pt was not written: Disk quota exceeded"
    incident = diagnose(told(unsaved=said), LIMITS, now=1e6)
    assert incident is not None and (incident.kind, incident.alive) == (IncidentKind.STORAGE, True)
    assert incident.detail == f"{said}; a second refusal ends it"
    assert incident.lines == (f"event 2: epoch 2, step 50, 5000 samples: {said}",)
    assert diagnose(told(), LIMITS, now=1e6) is None
    assert diagnose(told(unsaved=["of another version"]), LIMITS, now=1e6) is None
