"""A scheduler that is silent, forgets, lies or refuses: nothing is started twice, nothing is given up."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.cluster.processes import of_cluster
from tests.slurm.blows import everywhere
from tests.slurm.desk import SlurmDesk, eventually, real
from tests.story.watch import Watch

SIX = "train.epochs=6"
CRASHING = (SIX, "train.faults=[{kind: crash, at_epoch: 2, at_step: 3}]", "recovery.backoff=0")


def instead(watch: Watch, program: str, body: str) -> None:
    """The watchdog's `program` does something of a test's own first."""
    watch.front = watch.desk.home.parent / "front"
    watch.front.mkdir(exist_ok=True)
    (watch.front / program).write_text(f"#!/bin/bash\n{body}\n")
    (watch.front / program).chmod(0o755)


def crashed(desk: SlurmDesk) -> None:
    desk.launched("r", *CRASHING)
    eventually(lambda: desk.events("r", 1, "crashed"))


def test_the_answer_to_a_submission_is_lost(watch: Watch) -> None:
    """F1: sbatch times out, and the controller had it after all."""
    desk = watch.desk
    crashed(desk)
    (controller,) = [item for item in of_cluster(desk.cluster.folder) if item.program == "slurmctld"]
    instead(watch, "sbatch", f'kill -STOP {controller.pid}; exec {real("sbatch")} "$@"')
    run = watch.attempts("r", 2)
    watch.front = None
    desk.cluster.thaw()
    watch.completes("r")
    assert [entry["answer"] for entry in run.entries("answer")] == ["accepted", "unknown"]
    assert len(run.intents()) == 2


def test_a_submission_that_nobody_heard(watch: Watch) -> None:
    """F2: the same words, and there is no job: later it is submitted once more."""
    desk = watch.desk
    crashed(desk)
    instead(watch, "sbatch", "echo 'sbatch: error: Batch job submission failed: "
            "Socket timed out on send/recv operation' >&2; exit 1")  # fmt: skip
    run = watch.attempts("r", 2)
    watch.front = None
    watch.completes("r")
    assert run.kinds() == ["crashed", "lost"]
    assert [entry["answer"] for entry in run.entries("answer")] == ["accepted", "unknown", "accepted"]


def test_an_accepted_job_is_lost_and_its_id_given_to_another(watch: Watch) -> None:
    """F3, F4: the foreign job is nobody's business."""
    desk = watch.desk
    desk.cluster.run("sbatch", "--output=/dev/null", "--partition=urgent", "--nodes=6", "--wrap=sleep 300")
    lost = desk.launched("r")
    desk.cluster.restart_controller(lose_state=True)
    foreign = id_given_again(desk, lost)
    run = watch.completes("r")
    assert run.kinds() == ["lost"]
    assert len(run.intents()) == 2
    assert foreign in desk.cluster.run("squeue", "-h", "-o", "%A").stdout.split()


def id_given_again(desk: SlurmDesk, job: str) -> str:
    """Ids begin anew with a controller that knows nothing."""
    while True:
        foreign = desk.cluster.run(
            "sbatch", "--parsable", "--output=/dev/null", "--hold", "--job-name=foreign", "--wrap=true"
        ).stdout.strip()
        if int(foreign) >= int(job):
            return foreign


def test_a_controller_that_is_down(watch: Watch) -> None:
    """F5, F6: no action while it is, nor when it is back."""
    desk = watch.desk
    desk.launched("r", "train.epochs=500")
    desk.trains("r")
    desk.cluster.stop_controller()
    watch.stays("r")
    assert watch.calls.unanswered
    desk.cluster.start_controller()
    run = watch.stays("r")
    assert not watch.calls.unanswered
    assert not run.entries("end") and not run.incidents()
    assert desk.trains("r")


def test_a_job_that_ends_while_the_controller_is_down(watch: Watch) -> None:
    """F5: its script left its code, so that it is over; the next one waits for a controller that takes it."""
    desk = watch.desk
    desk.launched("r", *CRASHING, "train.rehearsal.step_seconds=0.3")  # six seconds, to be seen at work in
    eventually(lambda: desk.events("r", 1, "started"))
    desk.cluster.stop_controller()
    assert not desk.events("r", 1, "crashed")
    eventually(lambda: desk.events("r", 1, "crashed"))
    for _ in range(2):
        watch.tick()
    desk.cluster.start_controller()
    run = watch.completes("r")
    assert run.kinds()[0] == "crashed"
    assert len([entry for entry in run.entries("answer") if entry["answer"] == "accepted"]) == 2


@pytest.mark.parametrize("how", ["freeze_slurmdbd", "stop_slurmdbd"])
def test_accounting_does_not_answer(accounted_watch: Watch, how: str) -> None:
    """F7: decisions come later, not wrong."""
    watch, desk = accounted_watch, accounted_watch.desk
    desk.launched("r", *CRASHING)
    getattr(desk.cluster, how)()
    run = watch.completes("r")
    assert (run.kinds(), len(run.intents())) == (["crashed"], 2)


def test_accounting_lags_behind(accounted_watch: Watch) -> None:
    """F8: an answer without the job is no word about it."""
    watch, desk = accounted_watch, accounted_watch.desk
    desk.launched("r", SIX)
    instead(watch, "sacct", "exit 0")
    run = watch.completes("r")
    assert (run.kinds(), len(run.intents())) == ([], 1)


@pytest.fixture
def one_job_each(accounted_watch: Watch) -> Iterator[str]:
    """A QOS that lets a user have one job in the queue."""
    cluster = accounted_watch.desk.cluster
    cluster.run("sacctmgr", "-i", "add", "qos", "single", "MaxSubmitJobsPerUser=1")
    cluster.run("sacctmgr", "-i", "modify", "user", cluster.plan.user, "set", "qos+=single")
    yield "single"
    cluster.restore()
    cluster.run("sacctmgr", "-i", "modify", "user", cluster.plan.user, "set", "qos-=single")
    cluster.run("sacctmgr", "-i", "delete", "qos", "single")


def test_a_limit_of_submissions_is_waited_out(accounted_watch: Watch, one_job_each: str) -> None:
    """F34: refused for now, with pauses that grow, and no try lost by it."""
    watch, desk = accounted_watch, accounted_watch.desk
    desk.launched("r", *CRASHING, f"slurm.qos={one_job_each}", "recovery.backoff=1", "recovery.tries=2")
    eventually(lambda: desk.events("r", 1, "crashed") and not desk.jobs_of("r"))
    other = desk.cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", f"--qos={one_job_each}", "--hold", "--wrap=true"
    ).stdout.strip()
    run = watch.run("r")
    watch.until(lambda: run.kinds().count("submit_refused") >= 2)
    desk.cluster.run("scancel", other)
    watch.completes("r")
    assert "hold" not in [entry["kind"] for entry in run.entries()]


@pytest.fixture
def narrow(watch: Watch) -> Iterator[Callable[[], None]]:
    """Called: from now on the partition gives a job one node."""
    cluster = watch.desk.cluster
    change = ("scontrol", "update", "partitionname=booster-cancel")

    def shrink() -> None:
        cluster.run(*change, "maxnodes=1")

    yield shrink
    cluster.run(*change, "maxnodes=unlimited")


def test_what_can_never_run_is_said_in_one_tick(watch: Watch, narrow: Callable[[], None]) -> None:
    """F35: a partition that shrinks while the job waits, as a launch refuses what is too large. A person is asked."""
    desk = watch.desk
    everywhere(desk)
    job = desk.launched("r", "resources.nodes=2", "slurm.partition=booster-cancel")
    narrow()
    watch.tick()
    (hold,) = watch.run("r").entries("hold")
    assert "can never start" in hold["basis"]
    watch.stays("r")
    assert desk.jobs_of("r") == [job]


def test_a_maintenance_is_waited_for(watch: Watch) -> None:
    """F36: the job waits, and nothing is done about it."""
    desk = watch.desk
    desk.cluster.run(
        "scontrol", "create", "reservation", "reservationname=service", "starttime=now+5minutes", "duration=60",
        "nodes=ALL", "user=root", "flags=maint",
    )  # fmt: skip
    desk.launched("r")
    run = watch.stays("r")
    assert run.entries("hold") == []
    desk.cluster.run("scontrol", "delete", "reservationname=service")
    watch.completes("r")
    assert (run.kinds(), len(run.intents())) == ([], 1)
