"""Jobs from submission to their end, as the backend tells them on a real Slurm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipctl.backends.slurm import SlurmBackend
from clipctl.domain import Accepted, JobHandle, JobState, QueueSnapshot, Rejected, Unobservable
from clipctl.errors import Unavailable
from clipctl.reasons import waiting
from tests.slurm.jobs import IMPATIENT, Jobs


def test_a_job_is_told_from_its_start_to_its_end(jobs: Jobs) -> None:
    before = time.time()
    identity = jobs.submit("until [ -e seen ]; do sleep 0.1; done; exit 85", nodes="2", gres="gpu:4")
    running = jobs.until_state(identity, JobState.RUNNING)
    (jobs.root / "runs/demo/seen").touch()
    assert (running.nodes, running.node_count, running.partition) == ("jwb[0001-0002]", 2, "booster")
    assert running.started_at is not None and before - 1 <= running.started_at <= time.time() + 1
    assert running.ends_at == running.started_at + 3600
    failed = jobs.until_state(identity, JobState.FAILED)
    assert (failed.scheduler_id, failed.exit_code, failed.reason) == (running.scheduler_id, "85:0", "NonZeroExitCode")
    assert failed.ends_at is not None and failed.ends_at < running.started_at + 60


def test_slurm_gets_the_script_byte_for_byte(jobs: Jobs, tmp_path: Path) -> None:
    identity = jobs.identity()
    script = jobs.script(identity, "# Grüße, `id` $(id) \\ % '\"\nsleep 300")
    answer = jobs.backend.submit(script, identity)
    assert isinstance(answer, Accepted)
    stored = tmp_path / "stored"
    jobs.cluster.run("scontrol", "write", "batch_script", answer.scheduler_id, str(stored))
    assert stored.read_bytes() == script.read_bytes()
    kept = script.parent / "submitit" / f"{answer.scheduler_id}_submission.sh"
    assert kept.read_bytes() == script.read_bytes()
    assert not list(script.parent.rglob("*.pkl"))


def test_variables_of_the_caller_change_neither_job_nor_answer(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {
        "SBATCH_PARTITION": "urgent",
        "SBATCH_JOB_NAME": "other",
        "SBATCH_TIMELIMIT": "5",
        "SBATCH_REQUEUE": "1",
        "SLURM_NNODES": "3",
        "SQUEUE_PARTITION": "urgent",
        "SQUEUE_STATES": "COMPLETED",
        "SLURM_TIME_FORMAT": "relative",
        "TZ": "Asia/Kathmandu",
    }.items():
        monkeypatch.setenv(variable, value)
    identity = jobs.submit(partition="booster")
    report = jobs.until_state(identity, JobState.RUNNING)
    assert (report.partition, report.node_count) == ("booster", 1)
    assert report.started_at is not None and abs(report.started_at - time.time()) < 60


RULES = """
function slurm_job_submit(job, partition, user)
    job.time_limit, job.comment = 10, "touched by the site"
    return slurm.SUCCESS
end
function slurm_job_modify() return slurm.SUCCESS end
"""


@pytest.fixture
def rules(jobs: Jobs) -> Iterator[None]:
    """A site whose own plugin changes every job."""
    conf = jobs.cluster.folder / "slurm.conf"
    before = conf.read_text()
    (jobs.cluster.folder / "job_submit.lua").write_text(RULES)
    conf.write_text(before + "JobSubmitPlugins=lua\n")
    jobs.cluster.restart_controller()
    yield
    conf.write_text(before)
    jobs.cluster.restart_controller()


def test_what_a_site_changes_is_said(jobs: Jobs, rules: None) -> None:
    identity, answer = jobs.try_submit()
    assert isinstance(answer, Accepted)
    assert answer.differences == (
        f"--comment={identity.comment}, but the job has Comment=touched by the site",
        "--time=1:00:00, but the job has TimeLimit=00:10:00",
    )


def test_more_nodes_than_the_partition_has_is_said_at_once(jobs: Jobs) -> None:
    first = jobs.submit()
    for identity in (jobs.submit(nodes="97"), jobs.submit(nodes="97", identity=jobs.of_another_run())):
        report = jobs.until(identity, lambda report: bool(report.reason))
        words = waiting(report)
        assert words is not None and words.never
        assert words.text == "asks for 97 nodes, the partition booster gives a job at most 6"
    report = jobs.until_state(first, JobState.RUNNING)
    assert waiting(report) is None


def test_a_maintenance_reservation_is_a_reason_to_wait(jobs: Jobs) -> None:
    flags = ("starttime=now+10minutes", "duration=60", "user=root", "flags=maint", "nodes=ALL")
    jobs.cluster.run("scontrol", "create", "reservation", "reservationname=maintenance", *flags)
    identity = jobs.submit()
    report = jobs.until(identity, lambda report: "maintenance" in report.reason)
    words = waiting(report)
    assert words is not None and not words.never and "reserved for maintenance" in words.text


def test_a_successor_waits_for_the_runs_other_job(jobs: Jobs) -> None:
    jobs.until_state(jobs.submit(), JobState.RUNNING)
    report = jobs.until(jobs.submit(), lambda report: report.reason == "Dependency")
    assert (report.state, report.expected_start) == (JobState.PENDING, None)


def test_a_job_that_the_site_starts_again_is_the_same_job(jobs: Jobs) -> None:
    identity = jobs.submit()
    first = jobs.until_state(identity, JobState.RUNNING)
    jobs.cluster.run("scontrol", "update", f"jobid={first.scheduler_id}", "requeue=1")
    jobs.cluster.run("scontrol", "requeue", first.scheduler_id)
    again = jobs.until(identity, lambda report: report.reason == "BeginTime")
    assert (again.scheduler_id, again.state, again.restarts) == (first.scheduler_id, JobState.PENDING, 1)
    assert again.expected_start is not None


def test_a_preempted_job_tells_when_whatever_its_state(jobs: Jobs) -> None:
    identity = jobs.submit("sleep 300", partition="booster-cancel-grace", nodes="6")
    jobs.until_state(identity, JobState.RUNNING)
    jobs.submit(identity=jobs.of_another_run(), partition="urgent", nodes="6")
    report = jobs.until(identity, lambda report: report.preempted_at is not None)
    assert report.started_at is not None and report.preempted_at is not None
    assert report.preempted_at >= report.started_at


def test_jobs_of_others_with_our_looks_do_not_matter(jobs: Jobs) -> None:
    identity, answer = jobs.try_submit()
    assert isinstance(answer, Accepted)
    other = str(jobs.script(jobs.of_another_run(), "sleep 300"))
    forged = f"424242|0|RUNNING|{identity.job_name}|{identity.comment}"
    for name, comment in [
        (f"x\n{forged}", "none"),
        (identity.job_name, f"{identity.comment}\n{forged}"),
        (f"{identity.job_name}x", identity.comment),
        (identity.job_name, f"{identity.comment}{'x' * 300}"),
    ]:
        jobs.cluster.run("sbatch", f"--job-name={name}", f"--comment={comment}", other)
    report = jobs.until_state(identity, JobState.RUNNING)
    assert report.scheduler_id == answer.scheduler_id


# --- cancel -----------------------------------------------------------------------------------------

SAVES = """trap 'kill -USR1 $child' USR1
srun bash -c 'trap "touch saved; exit 85" USR1; trap "" TERM; touch ready; while :; do sleep 0.1; done' & child=$!
wait $child; wait $child; exit $?"""


def ready(jobs: Jobs) -> Path:
    """Once the job's ranks listen."""
    folder, limit = jobs.root / "runs/demo", time.monotonic() + 60
    while not (folder / "ready").exists():
        assert time.monotonic() < limit
        time.sleep(0.1)
    return folder


def test_a_job_that_is_cancelled_may_save(jobs: Jobs) -> None:
    identity = jobs.submit(SAVES)
    folder = ready(jobs)
    time.sleep(1.1)  # Slurm counts in seconds
    jobs.backend.cancel(JobHandle(identity=identity), force=False)
    report = jobs.until_state(identity, JobState.FAILED)
    assert (folder / "saved").exists() and report.exit_code == "85:0"


def test_a_job_that_has_only_just_started_is_ended(jobs: Jobs) -> None:
    identity = jobs.submit(SAVES)
    ready(jobs)
    SlurmBackend(jobs.limits).cancel(JobHandle(identity=identity), force=False)
    jobs.until_state(identity, JobState.CANCELLED)


def test_force_ends_what_does_not_heed_a_signal(jobs: Jobs) -> None:
    identity = jobs.submit("trap '' TERM USR1\nsrun bash -c 'trap \"\" TERM USR1; touch ready; sleep 300'")
    folder = ready(jobs)
    time.sleep(1.1)
    jobs.backend.cancel(JobHandle(identity=identity), force=False)
    report = jobs.poll(identity)
    assert report is not None and report.state is JobState.RUNNING
    jobs.backend.cancel(JobHandle(identity=identity), force=True)
    jobs.until_state(identity, JobState.CANCELLED)
    assert not (folder / "saved").exists()
    jobs.backend.cancel(JobHandle(identity=identity), force=True)  # over already: nothing to do


def test_a_job_that_waits_never_starts_once_cancelled(jobs: Jobs) -> None:
    jobs.submit()
    identity = jobs.submit("touch ready")
    jobs.backend.cancel(JobHandle(identity=identity), force=False)
    report = jobs.until_state(identity, JobState.CANCELLED)
    assert report.started_at is None


def test_an_id_alone_gets_nobody_cancelled(jobs: Jobs) -> None:
    foreign = jobs.submit(identity=jobs.of_another_run())
    theirs = jobs.until_state(foreign, JobState.RUNNING)
    handle = JobHandle(identity=jobs.identity(), scheduler_id=theirs.scheduler_id)
    jobs.backend.cancel(handle, force=True)
    after = jobs.poll(foreign)
    assert after is not None and after.state is JobState.RUNNING


def test_a_cancel_that_did_not_reach_slurm_says_so(jobs: Jobs) -> None:
    identity = jobs.submit()
    jobs.cluster.stop_controller()
    jobs.limits = IMPATIENT
    with pytest.raises(Unavailable, match="not told to stop"):
        jobs.backend.cancel(JobHandle(identity=identity), force=True)


# --- where there is no Slurm ------------------------------------------------------------------------


def test_a_machine_without_slurm_is_told_so(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = jobs.root / "bin"
    bare.mkdir()
    for program in ("env", "timeout"):
        (bare / program).symlink_to(Path("/usr/bin") / program)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("PATH", str(bare))
        identity, answer = jobs.try_submit()
        seen = jobs.backend.poll([identity])
    assert isinstance(answer, Rejected) and answer.reason.startswith("sbatch is not installed here")
    assert seen == Unobservable(reason="squeue is not installed here, or not in PATH")


def test_an_empty_queue_is_an_answer(jobs: Jobs) -> None:
    answer = jobs.backend.poll([])
    assert isinstance(answer, QueueSnapshot) and answer.jobs == {}
