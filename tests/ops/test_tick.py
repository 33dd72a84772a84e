"""One tick over several runs: each is seen and moved on by itself, whatever is wrong with the others."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from clipctl.domain import (
    Accepted,
    Complete,
    Hold,
    IncidentKind,
    JobHandle,
    JobIdentity,
    JobState,
    Rejected,
    Resubmit,
    RunState,
    Unknown,
    Wait,
)
from clipctl.errors import NotFound, Refused, Unavailable
from clipctl.ops.tick import ALARM, Outcome, Report, Site, tick
from clipctl.store.lease import Lease, Overtaken, take
from tests.ops.theatre import Scheduler, Stage, demo
from trainer.contract import EventKind, Exit, ExitCode, dumps, write_atomic

Stages = Callable[..., Stage]
HALF = ("train.precision=amp_fp16",)


def ticked(*runs: Stage, **more: object) -> Report:
    """All of them live on one cluster, and share the first one's scheduler and time."""
    first = runs[0]
    site = Site(cluster=first.cluster, backend=first.scheduler)
    return tick(lambda name: site, store=first.store, clock=first.time, **more)  # type: ignore[arg-type]


def outcome(report: Report, run: Stage) -> Outcome:
    (found,) = (each for each in report.outcomes if each.run == run.run)
    return found


def company(stage: Stages, *names: str) -> list[Stage]:
    """Runs of these names, launched, with one scheduler."""
    runs = [stage(demo(*HALF).model_copy(update={"name": name})) for name in names]
    for run in runs:
        run.time, run.scheduler = runs[0].time, runs[0].scheduler
        run.launch()
    return runs


def diverges(run: Stage) -> None:
    """In epoch 3; two checkpoints are there."""
    run.save(1)
    run.save(2)
    run.event(EventKind.DIVERGED, epoch=3, into=4, loss="nan", cause="loss", ranks=[0, 1])
    leaves(run, ExitCode.DIVERGED)


def leaves(run: Stage, code: int) -> None:
    """The script's trap has run, and the scheduler forgot the job. Nobody looked yet."""
    job = run.store.newest_job(run.run)
    write_atomic(run.folder.job(job.identity.nonce).exit, dumps(Exit(code=code, time=run.time.now())))
    run.scheduler.jobs.pop(job.identity.nonce)


def completes(run: Stage) -> None:
    run.event(EventKind.COMPLETED, epoch=3, into=10)
    leaves(run, ExitCode.COMPLETED)


def broken_row(run: Stage, table: str, column: str) -> None:
    key = "name" if table == "runs" else "run"
    with closing(sqlite3.connect(run.store.path)) as connection, connection:
        connection.execute(f"UPDATE {table} SET {column} = '{{' WHERE {key} = ?", (run.run,))


def test_a_run_that_diverged_goes_on_in_the_next_precision_and_the_others_are_left_alone(stage: Stages):
    ill, well = company(stage, "ill", "well")
    assert ticked(ill, well).lines == (), "both train"
    diverges(ill)
    report = ticked(ill, well)
    assert isinstance(outcome(report, ill).decision, Resubmit)
    assert isinstance(outcome(report, well).decision, Wait)
    assert (ill.store.run("ill").attempts, well.store.run("well").attempts) == (2, 1)
    assert [line.split(":")[:2] for line in report.lines] == [["ill", " resubmit"]]
    assert (report.unseen, report.needs_a_person) == (False, False)
    again = ticked(ill, well)
    assert (again.lines, len(ill.scheduler.submitted)) == ((), 3), "nothing more to say, nor to do"


def test_observing_decides_and_does_nothing(stage: Stages):
    run = stage(demo(*HALF))
    run.launch()
    diverges(run)
    report = ticked(run, act=False)
    assert isinstance(outcome(report, run).decision, Resubmit)
    assert len(run.scheduler.submitted) == 1


def test_a_run_is_said_to_have_completed_once(stage: Stages):
    ended, followed = company(stage, "ended", "followed")
    completes(ended)
    completes(followed)
    followed.look()  # somebody watched it to its end, so no job of it lives any more
    report = ticked(ended, followed)
    assert all(isinstance(each.decision, Complete) for each in report.outcomes)
    assert ticked(ended, followed).outcomes == ()
    for run in (ended, followed):
        kinds = [entry.kind for entry in run.store.decisions(run.run)]
        assert kinds.count("complete") == 1


def test_a_completed_run_that_was_given_more_epochs_completes_again(stage: Stages):
    run = stage()
    run.launch()
    run.save(3)
    completes(run)
    ticked(run)
    run.time.sleep(1)
    run.resume(patch={"train.epochs": 4}, epoch=4, force=("completed",))
    run.event(EventKind.COMPLETED, epoch=4, into=10)
    leaves(run, ExitCode.COMPLETED)
    assert isinstance(outcome(ticked(run), run).decision, Complete)
    assert ticked(run).outcomes == ()


@pytest.mark.parametrize("said", ["hold", "cancel"])
def test_what_a_person_said_is_not_decided_again_when_the_job_ends(stage: Stages, said: str):
    run = stage(demo(*HALF))
    run.launch()
    getattr(run.store, said)(run.run, actor="ada", basis="by ada", time=run.time.now())
    diverges(run)
    assert ticked(run).lines == ()
    entries = [(entry.kind, entry.actor) for entry in run.store.decisions(run.run) if entry.kind in ("hold", "cancel")]
    assert entries == [(said, "ada")]
    assert (run.store.run(run.run).hold_reason is None) == (said == "cancel")


def test_a_job_that_was_to_end_is_told_until_it_does_and_killed_when_its_grace_is_over(stage: Stages):
    """Also where what it was stopped for has passed since."""
    run = stage()
    scheduler = run.scheduler = Deaf(run.time)
    identity = run.launch().identity
    scheduler.jobs[identity.nonce] = JobState.RUNNING
    run.store.stop(identity.nonce, actor="watchdog", basis="hung", time=run.time.now())
    grace = run.cluster.limits.stop_grace
    for passed in (0.0, grace - 1.0, grace):
        run.time.seconds = 1_000_000.0 + passed
        ticked(run)
    assert [force for _, force in scheduler.cancelled] == [False, False, True]


# --- what is broken ---------------------------------------------------------------------------------


def unreadable_folder(run: Stage) -> None:
    events = run.folder.attempt(1).events
    events.symlink_to(events)  # to read it is an error, whoever reads


def rotten(table: str, column: str) -> Callable[[Stage], None]:
    """The row of a run that waits for a decision."""

    def spoil(run: Stage) -> None:
        diverges(run)
        broken_row(run, table, column)

    return spoil


BROKEN: dict[str, Callable[[Stage], None]] = {
    "its folder cannot be read": unreadable_folder,
    "the row of its job": rotten("jobs", "state"),
    "the row of its run": rotten("runs", "limits"),
    "its spec": rotten("runs", "spec"),
    "the settings of its attempt": rotten("attempts", "train"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_one_run_that_is_broken_stops_no_other(stage: Stages, what: str):
    broken, ill = company(stage, "broken", "ill")
    diverges(ill)
    BROKEN[what](broken)
    report = ticked(broken, ill)
    assert isinstance(outcome(report, ill).decision, Resubmit)
    (line,) = [line for line in report.lines if line.startswith("broken: not done: ")]
    assert report.unseen or report.needs_a_person
    assert broken.run not in [path.parts[-4] for path in broken.scheduler.submitted[2:]], line


def test_a_cluster_whose_profile_is_gone_hides_no_other(stage: Stages):
    run, other = company(stage, "run", "other")
    with closing(sqlite3.connect(run.store.path)) as connection, connection:
        connection.execute("UPDATE runs SET cluster = 'gone' WHERE name = 'other'")
    diverges(run)

    def sites(name: str) -> Site:
        if name == "gone":
            raise NotFound("there is no cluster 'gone'", hint="clipctl presets")
        return Site(cluster=run.cluster, backend=run.scheduler)

    report = tick(sites, store=run.store, clock=run.time)
    assert isinstance(outcome(report, run).decision, Resubmit)
    assert "other: not done: there is no cluster 'gone' (clipctl presets)" in report.lines
    assert report.needs_a_person
    assert other.store.run("other").attempts == 1


def test_a_controller_that_is_silent_is_told_of_after_ten_minutes(stage: Stages, home: Path):
    run = stage()
    run.launch()
    run.scheduler.reachable = False
    for minute in range(12):
        held = take(home)
        assert isinstance(held, Lease)
        report = recorded(run, held)
        assert report.unseen and not report.needs_a_person
        assert bool(report.lines) == (minute >= ALARM / 60), minute
        run.time.sleep(60)
    assert "local has not answered for 11 minutes, so nothing is done there: timed out" in report.lines
    run.scheduler.reachable = True
    held = take(home)
    assert isinstance(held, Lease)
    assert not recorded(run, held).unseen


def recorded(run: Stage, lease: Lease) -> Report:
    """As a process of its own does it: with its record for the next."""
    from clipctl.ops.tick import watch

    site = Site(cluster=run.cluster, backend=run.scheduler)
    return watch(lease, lambda name: site, home=run.store.path.parent, clock=run.time)


def test_whoever_was_overtaken_does_nothing_more(stage: Stages, home: Path):
    run = stage(demo(*HALF))
    run.launch()
    diverges(run)
    sleeper = take(home)
    assert isinstance(sleeper, Lease)
    other = replace(sleeper.term, number=2, holder=replace(sleeper.term.holder, host="login2"))
    write_atomic(home / "watchdog" / "term.2", dumps(other))
    with pytest.raises(Overtaken):
        ticked(run, lease=sleeper)
    assert len(run.scheduler.submitted) == 1


# --- jobs that should not be ------------------------------------------------------------------------


@dataclass
class Deaf(Scheduler):
    """Takes jobs without saying so, and shows them late. `cancelled`: who was told to end, and whether by force."""

    cancelled: list[tuple[str, bool]] = field(default_factory=list)

    def submit(self, script: Path, identity: JobIdentity) -> Accepted | Rejected | Unknown:
        self.submitted.append(script)
        return Unknown(reason="timed out")

    def cancel(self, job: JobHandle, *, force: bool) -> None:
        if job.identity.nonce in self.jobs:
            self.cancelled.append((job.identity.nonce, force))


def test_a_job_that_was_cancelled_before_it_was_seen_is_cancelled_on_sight(stage: Stages):
    run = stage()
    scheduler = run.scheduler = Deaf(run.time)
    identity = run.launch().identity
    run.store.cancel(run.run, actor="ada", basis="asked for by a person", time=run.time.now())
    assert ticked(run).lines == ()
    scheduler.jobs[identity.nonce] = JobState.PENDING
    assert ticked(run, act=False).lines == () and scheduler.cancelled == []
    assert ticked(run).lines == ("tiny: job 17 was told again to stop: it is cancelled",)
    assert scheduler.cancelled == [(identity.nonce, False)]


def test_a_job_that_was_taken_for_gone_and_is_back_is_ended_and_its_successor_stays(stage: Stages):
    run = stage()
    scheduler = run.scheduler = Deaf(run.time)
    first = run.launch().identity
    for _ in range(5):
        run.time.sleep(60)
        ticked(run)
    assert run.store.run(run.run).attempts == 2, "it never arrived, as far as anybody could see"
    second = run.store.newest_job(run.run).identity
    scheduler.jobs |= {first.nonce: JobState.PENDING, second.nonce: JobState.RUNNING, "f00": JobState.RUNNING}
    report = ticked(run)
    assert report.lines == ("tiny: job 17 of attempt 1 was taken for gone and is back: it is ended",)
    assert scheduler.cancelled == [(first.nonce, True)], "and nobody else's"
    assert run.store.job(second.nonce).live
    stops = [entry.basis for entry in run.store.decisions(run.run) if entry.kind == "stop"]
    assert len(stops) == 1


def test_one_that_is_back_when_its_run_waits_for_nothing_is_ended_too(stage: Stages):
    run = stage()
    scheduler = run.scheduler = Deaf(run.time)
    first = run.launch().identity
    run.store.hold(run.run, actor="ada", basis="wait", time=run.time.now())
    for _ in range(5):
        run.time.sleep(60)
        ticked(run)
    assert run.state is RunState.HELD
    scheduler.jobs[first.nonce] = JobState.RUNNING
    ticked(run)
    assert scheduler.cancelled == [(first.nonce, True)]


def test_a_job_that_could_not_be_recognized_holds_its_run(stage: Stages):
    run = stage()
    change = "--comment=clipctl:tiny:1:abc, but the job has Comment=site"
    run.scheduler.answer = Accepted(scheduler_id="17", differences=("--qos=a, but the job has QOS=b", change))
    run.launch()
    hold = run.store.run(run.run).hold_reason
    assert hold is not None and change in hold and "scancel 17" in hold and "qos" not in hold
    run.scheduler.jobs.clear()
    for _ in range(5):
        run.time.sleep(60)
        report = ticked(run)
    assert report.needs_a_person and len(run.scheduler.submitted) == 1


def test_a_refusal_for_now_is_kept_as_one(stage: Stages):
    run = stage()
    run.scheduler.answer = Rejected(reason="QOSMaxSubmitJobPerUserLimit", transient=True)
    with pytest.raises(Unavailable, match="QOSMaxSubmitJobPerUserLimit"):
        run.launch()
    incident = run.store.history(run.run).attempts[0].incident
    assert incident is not None and (incident.kind, incident.passes) == (IncidentKind.SUBMIT_REFUSED, True)


def test_a_refusal_for_good_is_told_and_stops_no_other(stage: Stages):
    refused, ill = company(stage, "refused", "ill")

    class Picky(Scheduler):
        def submit(self, script: Path, identity: JobIdentity) -> Accepted | Rejected | Unknown:
            if identity.run == "refused":
                return Rejected(reason="invalid account")
            return super().submit(script, identity)

    refused.scheduler = ill.scheduler = Picky(refused.time, jobs=refused.scheduler.jobs)
    diverges(refused)
    diverges(ill)
    report = ticked(refused, ill)
    error = outcome(report, refused).error
    assert isinstance(error, Refused) and report.needs_a_person
    assert outcome(report, ill).error is None and ill.store.run("ill").attempts == 2


def test_a_hold_is_said_once_and_needs_a_person_until_it_is_released(stage: Stages):
    run = stage()
    run.scheduler.jobs[run.launch().identity.nonce] = JobState.CANCELLED  # an admin's scancel
    first, second = ticked(run), ticked(run)
    assert isinstance(outcome(first, run).decision, Hold) and first.needs_a_person
    assert second.lines == () and second.needs_a_person and second.held == 1
