"""A run that has written more than one tick reads is read on by the next ones, and judged when all was read."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from clipctl import journal
from clipctl.domain import IncidentKind, JobState, Resubmit, RunState, Stop, Wait
from clipctl.ops.observe import HALF, Observation, Reading, observe
from clipctl.ops.tick import Outcome, Report, Site, tick, visit
from clipctl.store import open_store, ticks
from clipctl.store.lease import Lease, Overtaken, take
from tests.ops.theatre import Stage, demo
from trainer.contract import EventKind, Exit, ExitCode, Heartbeat, Phase, dumps, write_atomic

Stages = Callable[..., Stage]
HALF_PRECISION = "train.precision=amp_fp16"
FEW_BYTES = 250  # a few events


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visit, "MOST", FEW_BYTES)


def launched(stage: Stages, name: str = "tiny") -> Stage:
    run = stage(demo(HALF_PRECISION).model_copy(update={"name": name}))
    run.launch()
    return run


def trains(run: Stage, epochs: int) -> None:
    if not run.folder.attempt(1).events.exists():
        run.event(EventKind.STARTED, epoch=1, into=0, ranks=2, batch_size=32)
    for epoch in range(1, epochs + 1):
        for into in range(1, 10):
            run.event(EventKind.PROGRESS, epoch=epoch, into=into, loss=2.0, samples_per_second=64.0)
        run.save(epoch)


def leaves(run: Stage, code: int) -> None:
    job = run.store.newest_job(run.run)
    write_atomic(run.folder.job(job.identity.nonce).exit, dumps(Exit(code=code, time=run.time.now())))
    run.scheduler.jobs.pop(job.identity.nonce, None)


def ticked(*runs: Stage) -> Report:
    first = runs[0]
    site = Site(cluster=first.cluster, backend=first.scheduler)
    return tick(lambda name: site, store=first.store, clock=first.time)


def outcome(report: Report, run: Stage) -> Outcome:
    (found,) = (each for each in report.outcomes if each.run == run.run)
    return found


def looked(run: Stage, most: int) -> Observation:
    (seen,) = observe(
        [run.store.newest_job(run.run)], backend=run.scheduler, limits=run.cluster.limits, store=run.store,
        clock=run.time, reading=Reading(most=most),
    )  # fmt: skip
    return seen


# --- in slices ----------------------------------------------------------------------------------------


def test_a_divergence_far_behind_is_found_by_the_tick_that_reads_it(little: None, stage: Stages) -> None:
    """Its script has left meanwhile, and Slurm has forgotten it: that alone ends nothing."""
    run = launched(stage)
    trains(run, 2)
    run.event(EventKind.DIVERGED, epoch=3, into=4, loss="nan", cause="loss", ranks=[0, 1])
    leaves(run, ExitCode.DIVERGED)
    ticks = 0
    while run.store.run(run.run).attempts == 1:
        report = ticked(run)
        ticks += 1
        if run.store.run(run.run).attempts == 1:
            assert (outcome(report, run).decision, report.unseen) == (Wait(basis=HALF), True)
            assert run.store.newest_job(run.run).live and run.store.history(run.run).attempts[0].incident is None
        run.time.sleep(1000.0)
        assert ticks < 40
    assert ticks > 5 and isinstance(outcome(report, run).decision, Resubmit)
    incident = run.store.history(run.run).attempts[0].incident
    assert incident is not None and incident.kind is IncidentKind.DIVERGED


@pytest.mark.parametrize("ending", ["absent", "killed"])
def test_who_completed_long_ago_was_never_lost(little: None, stage: Stages, ending: str) -> None:
    """No exit.json: a report of Slurm's, or its silence, would be all that is known, were the last event not read."""
    run = launched(stage)
    trains(run, 3)
    run.event(EventKind.COMPLETED, epoch=3, into=10)
    nonce = run.store.newest_job(run.run).identity.nonce
    run.scheduler.jobs[nonce] = JobState.FAILED
    if ending == "absent":
        del run.scheduler.jobs[nonce]
    for _ in range(40):
        ticked(run)
        run.time.sleep(1000.0)
    assert (run.state, run.store.history(run.run).attempts[0].incident) == (RunState.COMPLETED, None)


def test_nobody_hangs_whose_events_are_not_read(little: None, stage: Stages) -> None:
    """Its heart stands still for hours, and is judged once its numbers are known."""
    run = launched(stage)
    trains(run, 2)
    beat = Heartbeat(counter=7, time=run.time.now(), phase=Phase.TRAINING, epoch=3, step=20, samples_seen=1280)
    write_atomic(run.folder.attempt(1).heartbeat, dumps(beat))
    kinds = []
    for _ in range(40):
        report = ticked(run)
        kinds.append((outcome(report, run).unobservable, outcome(report, run).incident is not None))
        run.time.sleep(1000.0)
        if kinds[-1][1]:
            break
    assert kinds[:-1] == [(HALF, False)] * (len(kinds) - 1) and kinds[-1] == ("", True)
    assert len(kinds) > 5 and isinstance(outcome(report, run).decision, Stop)


def test_a_run_that_has_grown_keeps_no_other_waiting(little: None, stage: Stages) -> None:
    grown, ill = launched(stage, "grown"), launched(stage, "ill")
    ill.time, ill.scheduler = grown.time, grown.scheduler
    grown.scheduler.jobs |= {job.identity.nonce: JobState.RUNNING for job in grown.store.jobs_live()}
    trains(grown, 3)
    ill.event(EventKind.DIVERGED, epoch=2, into=4, loss="nan", cause="loss", ranks=[0, 1])
    leaves(ill, ExitCode.DIVERGED)
    report = ticked(grown, ill)
    assert outcome(report, grown).unobservable == HALF and isinstance(outcome(report, ill).decision, Resubmit)
    assert grown.store.newest_job("grown").cursor.offset < grown.folder.attempt(1).events.stat().st_size / 2


def test_who_reads_one_run_for_long_shows_that_it_lives(stage: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each batch; and whoever took over meanwhile is heard."""
    run = launched(stage)
    trains(run, 3)
    monkeypatch.setattr(journal, "BATCH", FEW_BYTES)
    beats = [beaten(run) for _ in range(2)]
    assert beats[0] > beats[1] + 5, "in the first there was much to read"
    run.event(EventKind.DIVERGED, epoch=3, into=4, loss="nan", cause="loss", ranks=[0, 1])
    trains(run, 3)
    lease = mine(run)
    write_atomic(ticks.folder_of(run.store.home) / "term.9", dumps(replace(lease.term, number=9)))
    site = Site(cluster=run.cluster, backend=run.scheduler)
    with pytest.raises(Overtaken):
        observe(
            run.store.jobs_live(), backend=site.backend, limits=site.cluster.limits, store=run.store, clock=run.time,
            reading=Reading(beat=lease.beat), unread={},
        )  # fmt: skip


def mine(run: Stage) -> Lease:
    """In a process to which each question for the time takes half a minute."""
    clock = itertools.count(step=30.0)
    lease = take(run.store.home, uptime=lambda: next(clock))
    assert isinstance(lease, Lease)
    return lease


def beaten(run: Stage) -> int:
    lease = mine(run)
    site = Site(cluster=run.cluster, backend=run.scheduler)
    tick(lambda name: site, store=run.store, clock=run.time, lease=lease)
    lease.end()
    return lease.term.beats


# --- as at once ---------------------------------------------------------------------------------------

WORDS = st.lists(st.sampled_from(["progress", "garbage", "notice", "started", "diverged", "save"]), max_size=25)
ENDS = st.sampled_from(["", "completed", "crashed", "diverged"])


@given(words=WORDS, end=ENDS, most=st.integers(1, 3000), goes_on=st.booleans())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_slices_give_the_facts_that_one_reading_gives(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], end: str, most: int, goes_on: bool
) -> None:
    found = []
    for size in (most, 1 << 40):
        home = tmp_path_factory.mktemp("home")
        with open_store(home) as store:
            run = Stage(store, demo(HALF_PRECISION).model_copy(update={"root": home / "root"}))
            run.launch()
            told(run, words, end)
            if not goes_on:
                leaves(run, ExitCode.CRASHED)
            found.append(facts(run, size))
    assert found[0] == found[1]


def told(run: Stage, words: list[str], end: str) -> None:
    for number, word in enumerate(["started", *words, *([end] if end else [])], 1):
        if word == "save":
            run.save(1, into=number)
        elif word == "garbage":
            with open(run.folder.attempt(1).events, "a") as file:
                file.write("x" * 100 * number + "\n")
        else:
            run.event(EventKind(word), epoch=1, into=number, loss=2.0, ranks=[0, 1], error="boom", text="hm")


def facts(run: Stage, most: int) -> dict[str, Any]:
    for _ in range(200):
        seen = looked(run, most)
        if seen.unobservable != HALF:
            break
        assert (seen.incident, seen.over) == (None, False)
    job, history = run.store.newest_job(run.run), run.store.history(run.run)
    return {
        "landmarks": job.landmarks, "seq": job.cursor.seq, "incident": seen.incident, "over": seen.over,
        "history": replace(history, attempts=tuple(replace(each, incident_at=None) for each in history.attempts)),
        "points": run.store.series(run.run, 1).points,
    }  # fmt: skip
