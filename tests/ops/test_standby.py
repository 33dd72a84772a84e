"""The job that stands by, cut off at every point, and what the next look makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clipctl.domain import (
    Accepted,
    JobHandle,
    JobIdentity,
    JobState,
    Rejected,
    RunState,
    Unknown,
)
from clipctl.errors import Refused, Unavailable
from clipctl.ops import hold, standby
from clipctl.ops.cancel import cancel
from clipctl.ops.tick import Site, tick
from clipctl.store import StandbyRecord, ledger
from tests.ops.theatre import Scheduler, Stage, demo
from trainer import contract
from trainer.contract import Attempt, Claim, EventKind, Exit, Parent, loads

Stages = Callable[..., Stage]


class Queue(Scheduler):
    """One job of a run at a time, as Slurm's singleton; `killed` names the call in which clipctl dies."""

    killed = ""

    def submit(self, script: Path, identity: JobIdentity) -> Accepted | Rejected | Unknown:
        waits = JobState.RUNNING in self.jobs.values()
        self._die("before submit")
        answer = super().submit(script, identity)
        if waits and isinstance(answer, Accepted):
            self.jobs[identity.nonce] = JobState.PENDING
        self._die("after submit")
        return answer

    def cancel(self, job: JobHandle, *, force: bool) -> None:
        self._die("before cancel")
        if not self.reachable:
            raise Unavailable("the job was not told to stop: timed out", "squeue --me")
        super().cancel(job, force=force)
        self._die("after cancel")

    def _die(self, where: str) -> None:
        if self.killed == where:
            self.killed = ""
            raise KeyboardInterrupt


@pytest.fixture
def run(stage: Stages) -> Stage:
    """It trains, on a cluster with a queue; its spec asks for a standby."""
    spec = demo("train.precision=amp_fp16")
    made = stage(spec.model_copy(update={"recovery": replace(spec.recovery, standby=True)}))
    made.scheduler = Queue(made.time)
    made.cluster = made.cluster.model_copy(update={"scheduler": "slurm"})
    made.launch()
    made.event(EventKind.STARTED, epoch=1, into=0)
    made.look()
    return made


def watch(run: Stage) -> str:
    """One tick: what it decided, in words."""
    site = Site(cluster=run.cluster, backend=run.scheduler)
    outcomes = tick(lambda _: site, store=run.store, clock=run.time).outcomes
    assert not any(each.error for each in outcomes), outcomes
    return "; ".join(each.decision.basis for each in outcomes)


def open_standby(run: Stage) -> StandbyRecord:
    found = run.store.standby(run.run)
    assert found is not None
    return found


def stop(run: Stage, *, save: bool = True) -> None:
    """The job saves at its wall time's end and leaves; Slurm starts the next one."""
    if save:
        run.save(1)
    run.event(EventKind.STOPPED, epoch=2, into=0, signal=10, checkpoint="checkpoints/epoch_1.pt")
    leave(run, 85)


def leave(run: Stage, code: int) -> None:
    run.end(code)
    for nonce, state in run.scheduler.jobs.items():
        run.scheduler.jobs[nonce] = JobState.RUNNING if state is JobState.PENDING else state


def claim(run: Stage, standing: StandbyRecord) -> Parent:
    parent = Parent(path="attempts/1/checkpoints/epoch_1.pt", digest="sha256:1", epochs_done=1, step=10)
    held = Claim(nonce=standing.identity.nonce, job_id="18", restart_count=0, host="n1", time=0.0, parent=parent)
    run.folder.attempt(standing.identity.attempt).claim.write_text(contract.dumps(held))
    return parent


def fence(run: Stage, standing: StandbyRecord) -> None:
    folder = run.folder.job(standing.identity.nonce)
    folder.exit.write_text(contract.dumps(Exit(code=87, time=run.time.now())))
    del run.scheduler.jobs[standing.identity.nonce]


def nonces(run: Stage) -> set[str]:
    return set(run.scheduler.jobs)


# --- kept --------------------------------------------------------------------------------------------


def test_it_waits_behind_the_job_that_trains(run: Stage) -> None:
    watch(run)
    standing = open_standby(run)
    attempt = loads(Attempt, run.folder.attempt(2).attempt.read_bytes())

    assert (standing.after, standing.identity.attempt, attempt.after, attempt.parent) == (1, 2, 1, None)
    assert attempt.train == run.spec.train
    assert run.store.run(run.run).attempts == 1
    assert len(run.store.jobs_live()) == 1
    watch(run)
    assert len(run.scheduler.submitted) == 2


def test_a_run_that_does_not_ask_for_one_has_none(stage: Stages) -> None:
    made = stage()
    made.scheduler, made.cluster = Queue(made.time), made.cluster.model_copy(update={"scheduler": "slurm"})
    made.launch()
    made.event(EventKind.STARTED, epoch=1, into=0)
    watch(made)
    assert made.store.standbys() == ()


def test_one_that_the_scheduler_refuses_is_not_tried_at_every_tick(run: Stage) -> None:
    run.scheduler.answer = Rejected(reason="Job violates accounting/QOS policy")
    watch(run)
    watch(run)
    assert run.store.standbys() == ()
    assert len(run.scheduler.submitted) == 2


def test_one_that_was_scancelled_by_hand_is_not_brought_back(run: Stage) -> None:
    watch(run)
    run.scheduler.jobs[open_standby(run).identity.nonce] = JobState.CANCELLED
    watch(run)
    watch(run)
    assert run.store.standbys() == ()
    assert len(run.scheduler.submitted) == 2


@pytest.mark.parametrize(("point", "found"), [("before submit", False), ("after submit", True)])
def test_killed_while_it_is_submitted_it_is_looked_up_and_never_submitted_twice(
    point: str, found: bool, run: Stage
) -> None:
    assert isinstance(run.scheduler, Queue)
    run.scheduler.killed = point
    with pytest.raises(KeyboardInterrupt):
        watch(run)
    before = nonces(run)
    watch(run)
    assert nonces(run) == before
    assert (open_standby(run).scheduler_id is not None) is found
    run.time.sleep(run.cluster.limits.lost_after)
    watch(run)
    watch(run)
    assert len(nonces(run)) == 2, "one that never came to be is made up for"


# --- promoted ----------------------------------------------------------------------------------------


def test_once_it_has_claimed_it_is_the_newest_attempt(run: Stage) -> None:
    watch(run)
    standing = open_standby(run)
    stop(run)
    assert run.state is RunState.QUEUED
    assert "stands by" in watch(run)
    with pytest.raises(Refused, match="stands by in the queue"):
        run.resume()
    parent = claim(run, standing)
    watch(run)

    newest = run.store.history(run.run).attempts[-1]
    assert (newest.number, newest.live, newest.parent_path) == (2, True, parent.path)
    assert run.store.newest_job(run.run).identity.nonce == standing.identity.nonce
    assert run.state is RunState.RUNNING
    assert len(run.scheduler.submitted) == 2


def test_it_is_not_promoted_while_the_job_before_may_live(run: Stage) -> None:
    watch(run)
    claim(run, open_standby(run))
    watch(run)
    assert run.store.run(run.run).attempts == 1
    assert open_standby(run)


def test_killed_while_it_is_promoted_it_is_promoted_once(run: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(run)
    claim(run, open_standby(run))
    stop(run)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ledger, "append", die)
        watch(run)
    assert (run.store.run(run.run).attempts, open_standby(run).identity.attempt) == (1, 2)
    watch(run)
    watch(run)
    lines = [json.loads(line)["kind"] for line in run.folder.decisions.read_text().splitlines()]
    assert lines.count("promote") == 1
    assert run.store.run(run.run).attempts == 2


# --- not wanted --------------------------------------------------------------------------------------


def test_after_a_divergence_it_is_removed_and_known_to_be_gone_before_anything_starts(run: Stage) -> None:
    watch(run)
    standing = open_standby(run)
    run.save(1)
    run.event(EventKind.DIVERGED, epoch=2, into=3, loss="nan", cause="loss", ranks=[0, 1])
    run.end(86)
    assert run.state is RunState.STOPPED
    assert "is being removed" in watch(run)
    assert run.folder.job(standing.identity.nonce).withdrawn.exists()
    assert standing.identity.nonce not in nonces(run)
    watch(run)
    assert run.store.run(run.run).attempts == 1, "absent once is not gone"
    run.time.sleep(run.cluster.limits.lost_after)
    watch(run)
    assert run.store.run(run.run).attempts == 3
    assert run.store.history(run.run).attempts[-1].train["precision"] != run.spec.train.precision


def test_one_that_refused_by_itself_makes_way_in_the_same_tick(run: Stage) -> None:
    watch(run)
    run.event(EventKind.CRASHED, epoch=1, into=3, error="boom", rank=0)
    leave(run, 1)
    fence(run, open_standby(run))
    assert "stands by" not in watch(run)
    assert run.store.standbys() == ()
    run.time.sleep(run.spec.recovery.backoff)
    watch(run)
    assert run.store.history(run.run).attempts[-1].number == 3


def test_one_that_hangs_before_its_claim_is_removed_and_policy_goes_on(run: Stage) -> None:
    """Started by Slurm, and never heard of. It may take as long as a job may take to its first heartbeat."""
    watch(run)
    standing = open_standby(run)
    stop(run)
    patience = run.cluster.limits.claim_wait + run.cluster.limits.patience.starting
    for _ in range(2):
        assert watch(run) == f"stands by: {open_standby(run).words}"
        assert open_standby(run).withdrawn_at is None
        run.time.sleep(patience / 2)
    assert watch(run) == f"stands by: {open_standby(run).words}"
    (told,) = (each for each in run.store.decisions(run.run) if each.kind == "withdraw")
    assert told.basis == f"it has run for {patience:.0f} s without a claim; patience {patience:.0f} s"
    assert standing.identity.nonce not in nonces(run)
    run.time.sleep(run.cluster.limits.lost_after)
    watch(run)
    run.time.sleep(run.cluster.limits.lost_after)
    watch(run)
    _, other = run.store.history(run.run).attempts
    assert (other.number, other.parent_path) == (3, "attempts/1/checkpoints/epoch_1.pt")


def test_where_nothing_was_saved_policy_speaks_first(run: Stage) -> None:
    watch(run)
    stop(run, save=False)
    watch(run)
    assert open_standby(run).withdrawn_at is not None


def test_one_that_was_withdrawn_is_no_attempt_even_if_it_claimed_just_before(run: Stage) -> None:
    watch(run)
    standing = open_standby(run)
    hold.hold(run.run, reason="maintenance", actor="ada", store=run.store, backend=run.scheduler, clock=run.time)
    claim(run, standing)
    stop(run)
    run.time.sleep(run.cluster.limits.lost_after)
    watch(run)
    run.time.sleep(run.cluster.limits.lost_after)
    watch(run)
    assert (run.state, run.store.run(run.run).attempts, run.store.standbys()) == (RunState.HELD, 1, ())


def test_a_hold_that_cannot_reach_the_scheduler_is_made_up_for(run: Stage) -> None:
    watch(run)
    standing = open_standby(run)
    run.scheduler.reachable = False
    hold.hold(run.run, reason="maintenance", actor="ada", store=run.store, backend=run.scheduler, clock=run.time)
    assert run.folder.job(standing.identity.nonce).withdrawn.exists()
    run.scheduler.reachable = True
    watch(run)
    assert standing.identity.nonce not in nonces(run)


@pytest.mark.parametrize("point", ["before cancel", "after cancel"])
def test_killed_in_the_middle_of_a_cancel_nothing_starts_after_it(point: str, run: Stage) -> None:
    watch(run)
    standing = open_standby(run)
    assert isinstance(run.scheduler, Queue)
    run.scheduler.killed = point
    with pytest.raises(KeyboardInterrupt):
        cancel(run.run, actor="ada", store=run.store, backend=run.scheduler, clock=run.time)
    assert run.folder.job(standing.identity.nonce).withdrawn.exists()
    assert run.store.newest_job(run.run).identity.nonce in nonces(run), "the job is told last"
    watch(run)
    assert standing.identity.nonce not in nonces(run)
    stop(run)
    for _ in range(3):
        run.time.sleep(run.cluster.limits.lost_after)
        watch(run)
    assert (run.state, run.store.standbys(), len(run.scheduler.submitted)) == (RunState.CANCELLED, (), 2)


def test_of_a_cancelled_run_nothing_goes_on_that_claimed_while_the_cancel_was_killed(run: Stage) -> None:
    watch(run)
    standing = open_standby(run)
    run.store.cancel(run.run, actor="ada", basis="enough", time=run.time.now())
    claim(run, standing)
    stop(run)
    watch(run)
    assert standing.identity.nonce not in nonces(run)
    assert (run.state, run.store.run(run.run).attempts) == (RunState.CANCELLED, 1)


def test_who_resumes_otherwise_waits_until_it_is_gone(run: Stage) -> None:
    watch(run)
    stop(run)
    place = standby.Place(store=run.store, cluster=run.cluster, backend=run.scheduler, clock=run.time)
    with pytest.raises(Refused, match="has not left the queue"):
        standby.clear(run.run, place, actor="ada", basis="resumed")
    run.time.sleep(run.cluster.limits.lost_after)
    standby.clear(run.run, place, actor="ada", basis="resumed")
    assert run.plan().number == 3
    run.resume()
    assert [attempt.number for attempt in run.store.history(run.run).attempts] == [1, 3]
