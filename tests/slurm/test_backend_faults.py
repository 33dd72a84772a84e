"""Controllers that freeze, die and forget: no answer is no information, and a job is found by what makes it ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipctl.domain import Accepted, JobIdentity, JobReport, JobState, Limits, Unknown, Unobservable
from tests.slurm.desk import eventually
from tests.slurm.jobs import IMPATIENT, Jobs

PATIENT = Limits(query_timeout=20, submit_timeout=20)


def found(jobs: Jobs, identity: JobIdentity, patience: float = 30.0) -> JobReport:
    limit = time.monotonic() + patience
    while not isinstance(report := jobs.backend.find(identity), JobReport):
        assert time.monotonic() < limit, report
        time.sleep(0.2)
    return report


def test_a_submission_without_an_answer_was_accepted(jobs: Jobs) -> None:
    jobs.cluster.freeze_controller()
    jobs.limits = IMPATIENT
    identity, answer = jobs.try_submit()
    assert answer == Unknown(reason="sbatch: no answer in time")
    assert isinstance(jobs.backend.find(identity), Unobservable)
    jobs.limits = PATIENT
    jobs.cluster.thaw()
    report = found(jobs, identity)
    assert jobs.ids(identity) == [report.scheduler_id]


def test_a_submission_without_an_answer_reached_nobody(jobs: Jobs) -> None:
    jobs.cluster.stop_controller()
    jobs.limits = IMPATIENT
    identity, answer = jobs.try_submit()
    assert isinstance(answer, Unknown)
    jobs.limits = PATIENT
    jobs.cluster.start_controller()
    assert jobs.backend.find(identity) is None and jobs.ids(identity) == []


def saved_at(jobs: Jobs) -> int:
    """When the controller wrote its jobs down; 0 while it gives the new file its name."""
    try:
        return (jobs.cluster.folder / "state/job_state").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def test_an_accepted_job_is_lost_and_its_id_given_to_another(jobs: Jobs) -> None:
    """Slurm writes its state each five seconds: until then a job that was accepted does not survive a kill."""
    before = saved_at(jobs)
    jobs.submit(identity=jobs.of_another_run())
    eventually(lambda: saved_at(jobs) > before)  # and not again within 5 s
    identity, answer = jobs.try_submit()
    jobs.cluster.restart_controller()
    assert isinstance(answer, Accepted)
    assert jobs.backend.find(identity) is None
    stranger, theirs = jobs.try_submit(identity=jobs.of_another_run())
    assert isinstance(theirs, Accepted) and theirs.scheduler_id == answer.scheduler_id
    assert jobs.backend.find(identity) is None
    assert isinstance(jobs.backend.find(stranger), JobReport)


def test_a_dead_controller_says_nothing_about_a_job_and_a_new_one_knows_it(jobs: Jobs) -> None:
    identity = jobs.submit()
    before = jobs.until_state(identity, JobState.RUNNING)
    jobs.cluster.stop_controller()
    jobs.limits = IMPATIENT
    assert isinstance(jobs.backend.poll([identity]), Unobservable)
    jobs.limits = PATIENT
    jobs.cluster.start_controller()
    after = jobs.poll(identity)
    assert after is not None and (after.state, after.started_at) == (JobState.RUNNING, before.started_at)


def test_without_munge_nothing_is_known_and_nothing_certain(jobs: Jobs) -> None:
    identity = jobs.submit()
    socket = jobs.cluster.plan.munge_socket
    aside = socket.rename(socket.with_suffix(".aside"))
    try:
        seen, (_, answer) = jobs.backend.poll([identity]), jobs.try_submit()
    finally:
        aside.rename(socket)
    assert isinstance(seen, Unobservable) and "authentication" in seen.reason
    assert isinstance(answer, Unknown) and "authentication" in answer.reason
    assert jobs.poll(identity) is not None


SUBMITTING = """
import sys
from pathlib import Path
from clipctl.backends.slurm import SlurmBackend
from clipctl.domain import JobIdentity, Limits
run_id, nonce, time, script = sys.argv[1:]
identity = JobIdentity(run="demo", run_id=run_id, attempt=1, nonce=nonce, submitted_at=float(time))
print("submits", flush=True)
print(SlurmBackend(Limits()).submit(Path(script), identity))
"""


def child(process: int, program: bytes, patience: float = 30.0) -> int:
    """The process that another has started, once it is there."""
    children, limit = Path(f"/proc/{process}/task/{process}/children"), time.monotonic() + patience
    while True:
        for pid in map(int, children.read_text().split()):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(program):
                return pid
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_whoever_submits_may_die_before_the_answer(jobs: Jobs, number: signal.Signals) -> None:
    identity = jobs.identity()
    script = jobs.script(identity, "sleep 300")
    arguments = [identity.run_id, identity.nonce, str(identity.submitted_at), str(script)]
    jobs.cluster.freeze_controller()
    process = subprocess.Popen(
        [sys.executable, "-c", SUBMITTING, *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with process:
        sbatch = child(child(process.pid, b"timeout\0"), b"sbatch\0")
        time.sleep(0.3)
        os.killpg(process.pid, number)  # as a terminal does it: to the whole foreground
        assert process.wait(20) != 0
    assert Path(f"/proc/{sbatch}").exists()
    jobs.cluster.thaw()
    report = found(jobs, identity)
    assert jobs.ids(identity) == [report.scheduler_id]
