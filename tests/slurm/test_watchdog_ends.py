"""How jobs end, and that the watchdog alone brings their runs to theirs.

The faults of the study's section 4.4, where each is:

| fault | test |
|---|---|
| F1, F2, F3, F4, F5, F6, F7, F8, F34, F35, F36 | test_watchdog_scheduler.py |
| F9, F12 to F15, F28 to F31 | this module |
| F11, and F9's second time | test_watchdog_nodes.py |
| F16 | test_story.py: wall time ends in each of its runs |
| F10 | F15: what requeues the job, preemption or its site, is the same to what follows |
| F17, F18 | test_watchdog_people.py |
| F19, F20, F21 | test_watchdog_numbers.py |
| F22 to F26, F33 | test_watchdog_files.py |
| F27 | test_watchdog_full.py |
| F37, F38, F39 | the lock's own tests: two watchdogs, one store |
| F40 | tests/store: a database is made again from the run folders |
| F24 at its full length | tests/trainer/test_verify.py: every byte counts |
| F32 | cannot be: this trainer never leaves with 0 but from its last epoch; F33 and I4 stand for it |
| F41 | not here: the kernel mounts no NFS; absence is acted upon after `lost_after`, F3 |
| F42 | not here: one kernel has one clock, which Slurm's daemons share; ages are tested with a clock of ours |
"""

from __future__ import annotations

import signal

import pytest

from tests.cluster.processes import of_node, process, send
from tests.slurm.blows import kill, ranks_on, urgent
from tests.slurm.desk import SlurmDesk, eventually
from tests.story.story import late_words
from tests.story.watch import Watch

ENOUGH = "train.epochs=12"  # that it does not end before a busy machine has looked at it
LONG = "train.epochs=200"


def node_of(desk: SlurmDesk, name: str) -> str:
    return str(desk.status(name)["job"]["nodes"])


def test_a_node_dies(watch: Watch) -> None:
    """F9: rank 0's, with all that ran on it."""
    desk = watch.desk
    desk.launched("r", ENOUGH)
    desk.trains("r", 25)
    dead = node_of(desk, "r")
    desk.cluster.kill_node(dead)
    run = watch.completes("r")
    assert (run.kinds(), len(run.intents())) == (["node_failed"], 2)
    assert run.attempt(2)["parent"]["epochs_done"] >= 1
    assert node_of(desk, "r") != dead


def test_a_slurmd_dies_and_its_ranks_write_on(watch: Watch) -> None:
    """Split brain: Slurm gives the run's job another node, while nobody can end what runs on the first."""
    desk = watch.desk
    # Of step files two stay, and these ranks do not know which one is needed: two saves take longer than to decide.
    desk.launched("r", "train.epochs=14", "train.rehearsal.step_seconds=0.1", "train.save.steps=15")
    desk.trains("r", 5)
    apart = node_of(desk, "r")
    watch.living.apart.add(apart)
    desk.cluster.kill_node(apart, ranks=False)
    run = watch.attempts("r", 2)
    assert ranks_on(desk, apart), "they should still be there"
    watch.completes("r")
    assert (run.kinds(), len(run.intents())) == (["node_failed"], 2)
    assert run.events(2, "completed") and not run.events(1, "completed")
    assert list(late_words(run)) == []
    eventually(lambda: not ranks_on(desk, apart))


@pytest.mark.parametrize("partition", ["booster", "booster-grace", "booster-cancel", "booster-cancel-grace"])
def test_a_job_is_preempted(watch: Watch, partition: str) -> None:
    """F12, F13, F14: whatever Slurm calls it; it costs nothing."""
    desk = watch.desk
    desk.launched("r", ENOUGH, f"slurm.partition={partition}", "recovery.tries=1")
    desk.trains("r", 25)
    urgent(desk)
    run = watch.completes("r")
    assert (run.kinds(), len(run.intents())) == (["preempted"], 2)
    first = run.events(1, "stopped") or run.events(1, "checkpoint")
    assert run.events(2, "started")[0]["samples_seen"] == first[-1]["samples_seen"]


def test_a_job_that_is_preempted_and_put_back_into_the_queue_is_not_submitted_again(watch: Watch) -> None:
    """F15, and F10: the same id runs again, as the same attempt."""
    desk = watch.desk
    job = desk.launched("r", ENOUGH)
    desk.trains("r", 25)
    desk.cluster.run("scontrol", "update", f"jobid={job}", "requeue=1")
    urgent(desk)
    run = watch.run("r")
    watch.until(lambda: len(run.events(1, "started")) == 2)
    assert run.events(1, "started")[1]["step"] >= 20
    watch.completes("r")
    assert (run.kinds(), len(run.intents()), desk.status("r")["job"]["scheduler_id"]) == ([], 1, job)


def test_a_job_that_does_not_die_keeps_its_run(watch: Watch) -> None:
    """F29: preempted, but its ranks hear no signal and its slurmd hears nothing: COMPLETING is alive."""
    desk = watch.desk
    desk.launched("r", ENOUGH, "resources.nodes=1", "slurm.nodelist=jwb0001",
                  "train.faults=[{kind: hang, at_epoch: 2, at_step: 8, rank: 1}]")  # fmt: skip
    desk.wait("r", lambda run: (run["progress"]["step"] or 0) >= 25)
    slurmd = [item for item in of_node(desk.cluster.folder, "jwb0001") if item.program == "slurmd"]
    send(signal.SIGSTOP, slurmd)
    urgent(desk)
    watch.until(lambda: desk.status("r")["job"]["state"] == "COMPLETING")
    watch.stays("r")
    send(signal.SIGCONT, slurmd)
    run = watch.completes("r")
    assert (run.kinds(), len(run.intents())) == (["preempted"], 2)


def test_ranks_that_stand_still_are_stopped(watch: Watch) -> None:
    """F28: SIGSTOP. The job runs, nothing moves: it is ended, and the run goes on elsewhere or again."""
    desk = watch.desk
    desk.cluster.profile(desk.root, limits={"patience": {"training": 4, "checkpointing": 4, "evaluating": 4},
                                            "stop_grace": 1})  # fmt: skip
    desk.launched("r", ENOUGH)
    desk.trains("r", 25)
    kill(desk, signal.SIGSTOP, *ranks_on(desk))
    run = watch.completes("r")
    assert (run.kinds(), len(run.intents())) == (["hung"], 2)
    assert [entry["actor"] for entry in run.entries("stop")] == ["watchdog"]


def test_one_rank_dies_and_takes_the_others_along(watch: Watch) -> None:
    """F30. The last word is another's, who only heard of it; srun saw which one it was."""
    desk = watch.desk
    desk.launched("r", ENOUGH, "resources.nodes=2", "train.data.train_num_samples=640", "recovery.backoff=1")
    desk.trains("r", 25)
    victim = ranks_on(desk)[-1]
    found = process(victim)
    assert found is not None
    rank = int(found.environment["SLURM_PROCID"])
    kill(desk, signal.SIGKILL, victim)
    run = watch.completes("r")
    assert (run.kinds(), len(run.intents())) == (["crashed"], 2)
    assert run.incidents()[0]["ranks"] == [rank]


def test_a_run_that_crashes_at_each_start_is_held(watch: Watch) -> None:
    """F31: three tries with pauses between them, then a person is asked, and told what was tried."""
    desk = watch.desk
    desk.launched("r", "recovery.backoff=1", crashing())
    assert "crashed 3 times in a row" in watch.held("r")
    run = watch.stays("r")
    assert run.kinds() == ["crashed"] * 3
    starts = [intent["time"] for intent in run.intents()]
    ends = [entry["time"] for entry in run.entries("end")]
    pauses = [start - end for start, end in zip(starts[1:], ends, strict=False)]
    assert len(pauses) == 2 and pauses[0] >= 1 and pauses[1] >= 2


def crashing() -> str:
    """Once each: a start gets one step further than the one before."""
    return f"train.faults=[{', '.join(f'{{kind: crash, at_epoch: 1, at_step: {step}}}' for step in range(3, 9))}]"
