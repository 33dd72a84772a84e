"""All runs of one cluster in one tick: one question to its scheduler, then each run by itself.

A run that cannot be read, judged or moved on says so in its outcome, and the others go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from clipctl import policy
from clipctl.backends import Backend
from clipctl.domain import (
    ENDED_STATES,
    WATCHDOG,
    Accepted,
    CheckpointRecord,
    CheckpointState,
    Decision,
    Hold,
    Incident,
    JobHandle,
    JobIdentity,
    JobReport,
    JobState,
    QueueSnapshot,
    Rejected,
    Resubmit,
    RunState,
    Stop,
    Unknown,
    Unobservable,
    Wait,
)
from clipctl.errors import ClipctlError, Damaged, Unavailable
from clipctl.ops import evaluations, execute, standby
from clipctl.ops.clock import Clock
from clipctl.ops.observe import UNREADABLE, Observation, Reading, observe
from clipctl.spec import Cluster
from clipctl.store import EvaluationRecord, JobRecord, StandbyRecord
from clipctl.store.due import Due
from clipctl.store.lease import Lease, Overtaken

if TYPE_CHECKING:
    from clipctl.store.writer import Store

ACTOR = WATCHDOG
FINAL = frozenset({RunState.COMPLETED, RunState.CANCELLED, RunState.HELD})
GOES_ON = "its job goes on"
AT_A_TIME = 100  # jobs looked at between two signs of life
# Bytes of events of one run in one tick, so that no run keeps the others waiting for longer than half a minute. A run
# of weeks writes a few megabytes in all.
MOST = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Site:
    """One cluster as this tick meets it."""

    cluster: Cluster
    backend: Backend


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one run in one tick."""

    run: str
    decision: Decision
    incident: Incident | None = None
    unobservable: str = ""  # why its scheduler could not be asked, or what was not read
    error: ClipctlError | None = None  # it could not be looked at, or the decision could not be done
    notes: tuple[str, ...] = ()  # what was done besides


def failed(run: str, error: Exception) -> Outcome:
    return Outcome(run=run, decision=Wait(basis="it could not be looked at"), error=_told(run, error))


def _told(run: str, error: Exception) -> ClipctlError:
    if isinstance(error, ClipctlError):
        return error
    if isinstance(error, OSError):
        return Unavailable(f"{error.filename or 'its folder'}: {error.strerror or error}", f"clipctl status {run}")
    what = f"{type(error).__name__}: {error}"
    return Damaged(f"what is stored of it makes no sense ({what})", hint=f"clipctl show {run}")


@dataclass(kw_only=True)
class Visit:
    """`scoring`: evaluations here that are not over. `lost`: those that ended without a word, a line each.

    `silence`: why the scheduler did not answer; empty if it did.
    """

    site: Site
    store: Store
    clock: Clock
    act: bool
    lease: Lease | None
    scoring: Sequence[EvaluationRecord]
    silence: str = ""
    lost: tuple[str, ...] = ()
    standing: Mapping[str, StandbyRecord] = field(default_factory=dict)  # jobs that stand by, by run
    wanting: Set[str] = frozenset()  # runs whose settings ask for one

    def all(self, runs: Sequence[Due]) -> list[Outcome]:
        jobs, outcomes = self._jobs(runs)
        self.standing = self._standbys(runs)
        self.wanting = self.store.wanting_standbys()
        jobs_of_runs = (job.identity for job in jobs.values())
        beside = [*(each.identity for each in self.standing.values()), *(each.identity for each in self.scoring)]
        answer = self.site.backend.poll([*jobs_of_runs, *beside])
        if isinstance(answer, Unobservable):
            self.silence = answer.reason
        else:
            outcomes += self._strays(answer, jobs)
        limits = self.site.cluster.limits
        self.lost = evaluations.take_in_lost(self.scoring, answer, limits=limits, store=self.store, clock=self.clock)
        seen, unread = self._seen(jobs, answer)
        outcomes += [failed(run, error) for run, error in unread.items()]
        done = {outcome.run for outcome in outcomes if outcome.error}
        return outcomes + [self._one(each.run, seen.get(each.run), answer) for each in runs if each.run not in done]

    def _jobs(self, runs: Iterable[Due]) -> tuple[dict[str, JobRecord], list[Outcome]]:
        """Those that may live, by run. In one question, unless one of them makes no sense."""
        try:
            live = {job.identity.nonce: job for job in self.store.jobs_live()}
        except UNREADABLE:
            live = {}
        jobs, outcomes = {}, []
        for each in runs:
            try:
                if each.nonce is not None:
                    jobs[each.run] = live.get(each.nonce) or self.store.job(each.nonce)
            except UNREADABLE as error:
                outcomes.append(failed(each.run, error))
        return jobs, outcomes

    def _seen(
        self, jobs: Mapping[str, JobRecord], answer: QueueSnapshot | Unobservable
    ) -> tuple[dict[str, Observation], dict[str, Exception]]:
        """Some at a time, so that a long tick is not taken for a dead one."""
        backend, limits, store = _Asked(self.site.backend, answer), self.site.cluster.limits, self.store
        reading = Reading(most=MOST, beat=self._beat)
        seen: dict[str, Observation] = {}
        unread: dict[str, Exception] = {}
        rest = iter(jobs.values())
        while some := tuple(islice(rest, AT_A_TIME)):
            self._beat()
            looks = observe(
                some, backend=backend, limits=limits, store=store, clock=self.clock, reading=reading, unread=unread
            )
            seen |= {look.job.identity.run: look for look in looks}
        return seen, unread

    def _one(self, run: str, seen: Observation | None, answer: QueueSnapshot | Unobservable) -> Outcome:
        self._beat()
        try:
            outcome = self._stood_by(run, seen, answer) or self._decided(run, seen)
        except Overtaken:
            raise
        except UNREADABLE as error:
            return failed(run, error)
        return replace(outcome, unobservable=seen.unobservable if seen else "")

    def _beat(self) -> None:
        if self.lease is not None:
            self.lease.beat()

    # --- what follows -----------------------------------------------------------------------------------

    def _decided(self, run: str, seen: Observation | None) -> Outcome:
        incident, decision = self._next(run, seen)
        outcome = Outcome(run=run, incident=incident, decision=decision)
        if not self.act:
            return outcome
        if isinstance(decision, Wait):
            return self._kept(replace(outcome, notes=self._insisted(seen) if seen else ()), seen)
        self._may_act()
        try:
            self._execute(decision, run)
        except ClipctlError as error:
            return replace(outcome, error=error)
        return outcome

    def _execute(self, decision: Decision, run: str) -> None:
        site, basis = self.site, decision.basis
        standby.remove(run, store=self.store, backend=site.backend, clock=self.clock, actor=ACTOR, basis=basis)
        execute.execute(
            decision, run, actor=ACTOR, store=self.store, cluster=site.cluster, backend=site.backend, clock=self.clock
        )

    def _next(self, run: str, seen: Observation | None) -> tuple[Incident | None, Decision]:
        """A job that goes on without a trouble is most of a tick: nothing has to be read of it to know that."""
        if seen is None or seen.over or seen.incident is not None:
            return self._sound(run, seen)
        if seen.job.stop_requested_at is not None and not seen.unobservable:
            return None, Stop(basis="it was to end, and has not yet")
        return None, Wait(basis=seen.unobservable or GOES_ON)

    def _sound(self, run: str, seen: Observation | None) -> tuple[Incident | None, Decision]:
        """Every byte of a parent is read before it is decided for; a damaged one is marked, and it is decided again."""
        record = self.store.run(run)
        while True:
            history = self.store.history(run)
            recovery = execute.current_spec(record, history.attempts[-1]).recovery
            evidence = seen.evidence if seen else None
            limits = self.site.cluster.limits
            incident, decision = policy.step(history, evidence, limits, recovery, now=self.clock.now())
            if isinstance(decision, Hold) and history.state in (RunState.HELD, RunState.CANCELLED):
                return incident, Wait(basis=decision.basis)  # that was decided by a person, or before
            parent = decision.remedy.parent if isinstance(decision, Resubmit) else None
            if not isinstance(parent, CheckpointRecord) or parent.state is CheckpointState.DAMAGED:
                return incident, decision
            if execute.sound(parent, record, history, self.store):
                return incident, decision

    # --- the job that stands by -------------------------------------------------------------------------

    @property
    def _place(self) -> standby.Place:
        return standby.Place(store=self.store, cluster=self.site.cluster, backend=self.site.backend, clock=self.clock)

    def _standbys(self, runs: Iterable[Due]) -> dict[str, StandbyRecord]:
        here = {each.run for each in runs}
        return {each.identity.run: each for each in self.store.standbys() if each.identity.run in here}

    def _stood_by(self, run: str, seen: Observation | None, answer: QueueSnapshot | Unobservable) -> Outcome | None:
        """None: there is none, or it does not keep policy from speaking."""
        standing = self.standing.get(run)
        if standing is None:
            return None
        if self.act:
            self._may_act()
            basis = standby.look(run, self._place, answer)
        else:
            basis = "" if seen and not seen.over else f"stands by: {standing.words}"
        if not basis and seen is None and self.store.run(run).state in FINAL:
            basis = "its job that stood by is gone"
        return Outcome(run=run, decision=Wait(basis=basis)) if basis else None

    def _kept(self, outcome: Outcome, seen: Observation | None) -> Outcome:
        """Where a job goes on, the next one is put into the queue behind it."""
        if seen is None or seen.over or seen.unobservable:
            return outcome
        if outcome.run not in self.wanting or outcome.run in self.standing:
            return outcome
        self._may_act()
        try:
            said = standby.keep(outcome.run, self._place, actor=ACTOR)
        except ClipctlError as error:
            return replace(outcome, error=error)
        return replace(outcome, notes=(*outcome.notes, said)) if said else outcome

    # --- jobs that should not be ------------------------------------------------------------------------

    def _insisted(self, seen: Observation) -> tuple[str, ...]:
        """A cancel that came before the job was to be seen has reached nobody: it is told again at every look."""
        report = seen.evidence.job
        if not (seen.job.cancel_requested and report and _alive(report)):
            return ()
        self._may_act()
        handle = JobHandle(identity=seen.job.identity, scheduler_id=report.scheduler_id)
        self.site.backend.cancel(handle, force=False)
        return (f"job {report.scheduler_id} was told again to stop: it is cancelled",)

    def _strays(self, answer: QueueSnapshot, jobs: dict[str, JobRecord]) -> list[Outcome]:
        """Jobs of ours in the queue that the store takes for gone: their runs have gone on without them."""
        known = {job.identity.nonce for job in jobs.values()}
        found = []
        for nonce, report in answer.jobs.items():
            if nonce not in known and _alive(report) and (job := self._ended(nonce)) is not None:
                found.append(self._sent_away(job, report))
        return found

    def _ended(self, nonce: str) -> JobRecord | None:
        """None: it is another store's, it lives, or its row cannot be read."""
        try:
            job = self.store.job(nonce)
        except UNREADABLE:
            return None
        return None if job.live else job

    def _sent_away(self, job: JobRecord, report: JobReport) -> Outcome:
        identity = job.identity
        basis = f"job {report.scheduler_id} of attempt {identity.attempt} was taken for gone and is back: it is ended"
        outcome = Outcome(run=identity.run, decision=Wait(basis=basis), notes=(basis,))
        if not self.act:
            return outcome
        self._may_act()
        try:
            self.store.stop(identity.nonce, actor=ACTOR, basis=basis, time=self.clock.now())
            self.site.backend.cancel(JobHandle(identity=identity, scheduler_id=report.scheduler_id), force=True)
        except (ClipctlError, OSError) as error:
            return replace(outcome, error=_told(identity.run, error))
        return outcome

    def _may_act(self) -> None:
        if self.lease is not None:
            self.lease.check()


def _alive(report: JobReport) -> bool:
    return report.state not in ENDED_STATES and report.state is not JobState.COMPLETING


@dataclass(frozen=True)
class _Asked:
    """A backend that has been polled: all its runs are judged by one answer, each by itself."""

    backend: Backend
    answer: QueueSnapshot | Unobservable

    def poll(self, jobs: Sequence[JobIdentity]) -> QueueSnapshot | Unobservable:
        return self.answer

    def submit(self, script: Path, identity: JobIdentity) -> Accepted | Rejected | Unknown:
        return self.backend.submit(script, identity)

    def find(self, identity: JobIdentity) -> JobReport | Unobservable | None:
        return self.backend.find(identity)

    def cancel(self, job: JobHandle, *, force: bool) -> None:
        self.backend.cancel(job, force=force)
