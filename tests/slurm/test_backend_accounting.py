"""With accounting behind it, and with accounting that is late, frozen, dead or wrong. And what a poll costs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import pytest

from clipctl.backends.slurm import SlurmBackend
from clipctl.backends.transport import Completed, Here
from clipctl.domain import Accepted, JobReport, JobState, Limits, QueueSnapshot, Rejected, Unobservable
from clipctl.reasons import waiting
from tests.slurm.jobs import Jobs


@pytest.fixture
def jobs(accounted_jobs: Jobs) -> Jobs:
    return accounted_jobs


def forget(jobs: Jobs) -> None:
    """The queue forgets all jobs, as it does MinJobAge after their end; accounting keeps them."""
    jobs.cluster.restart_controller(lose_state=True)


def accounted_state(jobs: Jobs, name: str, state: str, patience: float = 60.0) -> None:
    """Records come seconds later."""
    limit = time.monotonic() + patience
    while state not in jobs.cluster.run("sacct", "-X", "-n", "-P", f"--name={name}", "-o", "State").stdout:
        assert time.monotonic() < limit
        time.sleep(0.2)


def test_how_a_job_ended_that_the_queue_has_forgotten(jobs: Jobs) -> None:
    identity = jobs.submit("exit 85", identity=jobs.of_another_run(), nodes="2")
    seen = jobs.until_state(identity, JobState.FAILED)
    accounted_state(jobs, identity.job_name, "FAILED")
    forget(jobs)
    report = jobs.poll(identity)
    assert report is not None
    assert (report.state, report.exit_code, report.node_count) == (JobState.FAILED, "85:0", 2)
    assert (report.scheduler_id, report.started_at, report.ends_at) == (
        seen.scheduler_id,
        seen.started_at,
        seen.ends_at,
    )
    assert report == jobs.backend.find(identity)


def test_who_cancelled_a_job_is_known_at_once(jobs: Jobs) -> None:
    identity = jobs.submit(identity=jobs.of_another_run())
    running = jobs.until_state(identity, JobState.RUNNING)
    jobs.cluster.run("scancel", running.scheduler_id)
    assert jobs.until(identity, lambda report: report.cancelled_by is not None).state is JobState.CANCELLED


def test_a_job_is_not_over_while_accounting_is_about_to_say_who_cancelled_it(jobs: Jobs) -> None:
    identity = jobs.submit(identity=jobs.of_another_run())
    running = jobs.until_state(identity, JobState.RUNNING)
    accounted_state(jobs, identity.job_name, "RUNNING")
    jobs.cluster.stop_slurmdbd()  # the controller keeps for later what it has to tell it
    jobs.cluster.run("scancel", running.scheduler_id)
    jobs.until_state(identity, JobState.CANCELLED)
    jobs.cluster.start_slurmdbd()
    late = jobs.poll(identity)
    assert late is not None and (late.state, late.cancelled_by, late.over) == (JobState.CANCELLED, None, False)
    assert jobs.until(identity, lambda report: report.over).cancelled_by == os.getuid()


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "dead"])
def test_a_database_that_does_not_answer_holds_nothing_up(jobs: Jobs, frozen: bool) -> None:
    alive = jobs.submit(identity=jobs.of_another_run())
    missing = jobs.of_another_run()
    jobs.until_state(alive, JobState.RUNNING)
    jobs.cluster.freeze_slurmdbd() if frozen else jobs.cluster.stop_slurmdbd()
    jobs.limits = Limits()
    began = time.monotonic()
    answer = jobs.backend.poll([alive, missing])
    assert time.monotonic() - began < 20
    assert isinstance(answer, QueueSnapshot) and set(answer.jobs) == {alive.nonce}
    assert jobs.submit(identity=jobs.of_another_run())


def test_a_job_that_accounting_has_not_heard_of_is_absent_and_not_ended(jobs: Jobs) -> None:
    assert jobs.backend.find(jobs.of_another_run()) is None


@dataclass
class Counting:
    """Counts what is started; all of it really is."""

    started: list[str] = field(default_factory=list)

    def run(self, argv: Sequence[str], *, timeout: float, stdin: bytes = b"") -> Completed:
        programs = ("squeue", "sacct", "scontrol", "scancel", "sinfo", "sbatch")
        self.started += [PurePath(word).name for word in argv if PurePath(word).name in programs]
        return Here().run(argv, timeout=timeout, stdin=stdin)


def test_300_waiting_jobs_are_polled_with_three_processes(jobs: Jobs) -> None:
    failed = jobs.submit("exit 1", identity=jobs.of_another_run())
    jobs.until_state(failed, JobState.FAILED)
    blocked = jobs.submit(nodes="6", identity=jobs.of_another_run())
    identities = [jobs.of_another_run() for _ in range(300)]
    scripts = [str(jobs.script(identity, "true")) for identity in identities]
    each = 'for script; do sbatch --parsable "$script" || exit; done'
    subprocess.run(["bash", "-c", each, "bash", *scripts], check=True, stdout=subprocess.DEVNULL)
    counting = Counting()
    cancelled = jobs.of_another_run()
    answer = SlurmBackend(jobs.limits, transport=counting).poll([failed, blocked, cancelled, *identities])
    assert isinstance(answer, QueueSnapshot) and len(answer.jobs) == 302
    assert {report.partition_nodes for report in answer.jobs.values()} == {6}
    assert {answer.jobs[identity.nonce].state for identity in identities} == {JobState.PENDING}
    assert sorted(counting.started) == ["sacct", "scontrol", "squeue"]


@pytest.fixture
def one_at_a_time(jobs: Jobs) -> Iterator[None]:
    """A QOS that lets a user have one job, and another that lets a job have one node."""
    manage = ("sacctmgr", "-i")
    jobs.cluster.run(*manage, "add", "qos", "single", "MaxSubmitJobsPerUser=1")
    jobs.cluster.run(*manage, "add", "qos", "small", "MaxTRESPerJob=node=1")
    user = jobs.cluster.plan.user
    jobs.cluster.run(*manage, "modify", "user", user, "set", "qos+=single,small")
    yield
    jobs.cluster.restore()
    jobs.cluster.run(*manage, "modify", "user", user, "set", "qos-=single,small")
    jobs.cluster.run(*manage, "delete", "qos", "single,small")


def test_a_limit_of_submissions_refuses_for_now_and_a_nodes_limit_for_ever(jobs: Jobs, one_at_a_time: None) -> None:
    _, first = jobs.try_submit(qos="single")
    _, second = jobs.try_submit(qos="single", identity=jobs.of_another_run())
    assert isinstance(first, Accepted) and isinstance(second, Rejected)
    assert second.transient and "QOSMaxSubmitJobPerUserLimit" in second.reason
    identity = jobs.submit(qos="small", nodes="2", identity=jobs.of_another_run())
    report = jobs.until(identity, lambda report: "QOS" in report.reason)
    words = waiting(report)
    assert words is not None and words.never


@pytest.mark.parametrize("option", [{"account": "nosuch"}, {"partition": "nosuch"}, {"qos": "nosuch"}])
def test_what_slurm_does_not_know_is_refused_for_good(jobs: Jobs, option: dict[str, str]) -> None:
    identity, answer = jobs.try_submit(**option)  # type: ignore[arg-type]
    assert isinstance(answer, Rejected) and not answer.transient
    assert not isinstance(jobs.backend.find(identity), (JobReport, Unobservable))
