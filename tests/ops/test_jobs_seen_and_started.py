"""What a submission leaves behind at every point where it can be cut off, and when a job counts as over."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from clipctl.domain import (
    Accepted,
    IncidentKind,
    JobIdentity,
    JobState,
    Limits,
    QueueSnapshot,
    Rejected,
    RunState,
    Unknown,
    Unobservable,
)
from clipctl.errors import Refused, Unavailable
from clipctl.ops import execute
from clipctl.ops.follow import follow
from tests.ops.theatre import Scheduler, Stage
from trainer.contract import Attempt, Claim, EventKind, Job, dumps, loads

Stages = Callable[..., Stage]


def test_everything_is_on_disk_before_the_scheduler_is_asked(stage: Stages):
    run = stage()
    seen: list[str] = []

    class Looking(Scheduler):
        def submit(self, script: Path, identity: JobIdentity) -> Rejected:
            folder = run.folder
            assert loads(Attempt, folder.attempt(1).attempt.read_bytes()).train == run.spec.train
            assert loads(Job, folder.job(identity.nonce).job.read_bytes()).attempt == 1
            assert identity.nonce in folder.decisions.read_text()
            assert folder.run.exists()
            assert run.store.job(identity.nonce).live
            seen.append(script.read_text())
            return Rejected(reason="that is all")

    run.scheduler = Looking(run.time)
    with pytest.raises(Refused, match="the scheduler refused: that is all"):
        run.launch()
    assert seen[0].startswith("#!")


def test_a_refused_submission_can_be_repaired_and_resumed(stage: Stages):
    run = stage()
    accepted, run.scheduler.answer = run.scheduler.answer, Rejected(reason="invalid account")
    with pytest.raises(Refused, match="invalid account"):
        run.launch()
    assert run.state is RunState.STOPPED
    incident = run.store.history(run.run).attempts[0].incident
    assert incident is not None
    assert (incident.kind, incident.detail) == (IncidentKind.SUBMIT_REFUSED, "invalid account")
    run.scheduler.answer = accepted
    run.resume()
    assert run.store.run(run.run).attempts == 2


def answers(run: Stage, nonce: str) -> None:
    """`launch`, in another process, hears of the job."""
    run.store.answered(nonce, Accepted(scheduler_id="17"), time=run.time.now())


def claims(run: Stage, nonce: str) -> None:
    """The job's script has begun."""
    claim = Claim(nonce=nonce, job_id="17", restart_count=0, host="vm", time=run.time.now())
    run.folder.attempt(1).claim.write_text(dumps(claim))


@pytest.mark.parametrize("arrives", [answers, claims])
def test_a_job_that_comes_while_the_scheduler_is_asked_is_not_missing(
    stage: Stages, arrives: Callable[[Stage, str], None]
) -> None:
    """The watchdog looks while somebody launches; on this machine a job that is missed once is gone."""
    run = stage()

    class Early(Scheduler):
        def submit(self, script: Path, identity: JobIdentity) -> Unknown:
            return Unknown(reason="not yet")

        def poll(self, asked: Sequence[JobIdentity]) -> QueueSnapshot | Unobservable:
            answer = super().poll(asked)
            for job in asked:
                arrives(run, job.nonce)
                self.jobs[job.nonce] = JobState.RUNNING
            return answer

    run.scheduler = Early(run.time)
    run.cluster = run.cluster.model_copy(update={"limits": Limits(lost_after=0.0)})
    run.launch()
    seen = run.look()
    assert not seen.over and seen.incident is None
    seen = run.look()
    assert not seen.over and seen.job.state is JobState.RUNNING
    run.scheduler.poll = Scheduler(run.time).poll  # type: ignore[method-assign]
    assert run.look().over, "of a job that has come it counts"


def test_a_crash_between_intent_and_submission_is_looked_up_and_waited_for(stage: Stages):
    """As after kill -9 of clipctl: nothing says whether the job exists, so nothing is submitted for a while."""
    run = stage()

    class Killed(Scheduler):
        def submit(self, script: Path, identity: JobIdentity) -> Unknown:
            raise KeyboardInterrupt

    scheduler, run.scheduler = run.scheduler, Killed(run.time)
    with pytest.raises(KeyboardInterrupt):
        run.launch()
    run.scheduler = scheduler
    patience = run.cluster.limits.lost_after
    assert not run.look().over
    run.time.sleep(patience - 1)
    assert not run.look().over
    with pytest.raises(Refused, match="may be alive"):
        run.resume()
    run.time.sleep(1)
    seen = run.look()
    assert seen.over
    assert seen.incident is not None
    assert seen.incident.detail == "never reached the scheduler"
    run.resume()


def test_files_that_cannot_be_written_mean_no_submission(stage: Stages):
    run = stage()
    run.folder.path.mkdir(parents=True)
    (run.folder.path / "attempts").write_text("in the way")
    with pytest.raises(Unavailable, match="nothing was submitted"):
        run.launch()
    assert run.scheduler.submitted == []
    os.remove(run.folder.path / "attempts")
    run.resume()
    assert len(run.scheduler.submitted) == 1


def test_of_two_launches_of_one_name_the_first_keeps_its_spec(stage: Stages):
    run = stage()
    run.launch()
    before = run.folder.run.read_text()
    with pytest.raises(Refused, match="in use already"):
        run.launch()
    assert run.folder.run.read_text() == before
    assert len(run.scheduler.submitted) == 1


def test_silence_is_lost_only_after_answers_that_span_the_patience(stage: Stages):
    run = stage()
    begun = run.launch()
    run.event(EventKind.PROGRESS, epoch=1, into=3, loss=2.5)
    assert run.look().incident is None
    del run.scheduler.jobs[begun.identity.nonce]
    run.look()
    run.scheduler.reachable = False
    run.time.sleep(10_000)
    seen = run.look()
    assert (seen.incident, seen.over, seen.unobservable) == (None, False, "timed out")
    run.scheduler.reachable = True
    seen = run.look()
    assert seen.over
    assert seen.incident is not None
    assert (seen.incident.kind, seen.incident.step) == (IncidentKind.LOST, 3)
    assert run.state is RunState.STOPPED


def test_a_job_that_shows_up_again_was_never_gone(stage: Stages):
    run = stage()
    begun = run.launch()
    nonce = begun.identity.nonce
    state = run.scheduler.jobs.pop(nonce)
    run.look()
    run.scheduler.jobs[nonce] = state
    run.time.sleep(10_000)
    run.look()
    del run.scheduler.jobs[nonce]
    assert not run.look().over


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.COMPLETING])
def test_an_exit_code_is_not_believed_while_processes_live(stage: Stages, state: JobState):
    run = stage()
    begun = run.launch()
    run.event(EventKind.COMPLETED, epoch=3, into=10)
    run.end(0)
    assert run.store.job(begun.identity.nonce).ended_at is not None
    other = stage(run.spec.model_copy(update={"name": "other"}))
    begun = other.launch()
    other.event(EventKind.COMPLETED, epoch=3, into=10)
    other.folder.job(begun.identity.nonce).exit.write_text('{"code": 0, "time": 1.0}')
    other.scheduler.jobs[begun.identity.nonce] = state
    assert not other.look().over


def test_looking_again_changes_nothing(stage: Stages):
    run = stage()
    run.launch()
    run.event(EventKind.PROGRESS, epoch=1, into=3, loss=2.5)
    run.save(1)
    run.event(EventKind.CRASHED, epoch=2, into=1, error="boom", rank=1)
    run.end(1)
    before = run.store.history(run.run)
    lines = run.folder.decisions.read_text()
    assert run.look().incident == run.look().incident
    assert run.store.history(run.run) == before
    assert run.folder.decisions.read_text() == lines


def test_the_end_of_the_log_is_evidence_of_a_crash(stage: Stages):
    run = stage()
    begun = run.launch()
    logs = run.folder.job(begun.identity.nonce).logs
    (logs / "script.log").write_text("rank 1 was killed by SIGKILL\n")
    (logs / "rank_0.log").write_text("\x1b[31mTraceback\x1b[0m\nRuntimeError: out of shards\n")
    run.end(1)
    incident = run.look().incident
    assert incident is not None
    assert incident.lines[-3:] == ("rank 1 was killed by SIGKILL", "Traceback", "RuntimeError: out of shards")


def test_the_script_is_what_render_shows(stage: Stages):
    run = stage()
    begun = run.launch()
    start = execute.Start(spec=run.spec, cluster=run.cluster, folder=run.folder)
    assert run.scheduler.submitted[0].read_text() == execute.script_of(start, begun.identity)


def test_a_job_on_another_host_is_not_judged_from_here(stage: Stages):
    """A home on NFS: this host's /proc says nothing about that one's processes."""
    run = stage()
    run.scheduler.answer = Accepted(scheduler_id="17@here")
    run.launch()
    run.scheduler.host = "somewhere-else"
    run.scheduler.jobs.clear()
    run.time.sleep(10_000)
    seen = run.look()
    assert not seen.over
    assert "another host" in seen.unobservable


def test_a_scheduler_is_asked_as_seldom_as_its_cluster_wants_while_somebody_watches(stage: Stages):
    run = stage()
    begun = run.launch()
    asked: list[float] = []

    class Counting(Scheduler):
        def poll(self, jobs: Sequence[JobIdentity]) -> QueueSnapshot | Unobservable:
            asked.append(self.time.now())
            return super().poll(jobs)

    scheduler = Counting(run.time, jobs=run.scheduler.jobs)
    limits = Limits(poll_every=10.0)
    looks = follow(begun.identity.nonce, backend=scheduler, limits=limits, store=run.store, clock=run.time)
    for _ in range(100):
        assert not next(looks).over
    assert [later - earlier for earlier, later in pairwise(asked)] == [10.0] * 4
    scheduler.jobs[begun.identity.nonce] = JobState.CANCELLED
    assert list(looks)[-1].over
