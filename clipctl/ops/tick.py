"""One pass of the watchdog: every job that may live is looked at, every run that may go on is decided upon."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipctl import policy
from clipctl.backends import Backend
from clipctl.domain import WATCHDOG, CheckpointRecord, CheckpointState, Decision, Incident, Resubmit, RunState, Wait
from clipctl.errors import ClipctlError
from clipctl.ops import execute
from clipctl.ops.clock import Clock
from clipctl.ops.observe import Observation, observe
from clipctl.spec import Cluster
from clipctl.store import JobRecord, RunRecord

if TYPE_CHECKING:
    from clipctl.store.writer import Store

ACTOR = WATCHDOG
DONE = frozenset({RunState.COMPLETED, RunState.CANCELLED, RunState.HELD})


@dataclass(frozen=True, kw_only=True)
class Site:
    """One cluster as this tick meets it."""

    cluster: Cluster
    backend: Backend


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one run in one tick."""

    run: str
    incident: Incident | None
    decision: Decision
    unobservable: str = ""  # why its scheduler could not be asked
    error: ClipctlError | None = None  # the decision could not be done


def tick(site_of: Callable[[str], Site], *, store: Store, clock: Clock, act: bool = True) -> tuple[Outcome, ...]:
    """`site_of`: from a cluster's name. Without `act` everything is seen and decided, and nothing is done."""
    live = {job.identity.run: job for job in store.jobs_live()}
    runs = [run for run in store.runs() if run.name in live or run.state not in DONE]
    by_cluster: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        by_cluster[run.cluster].append(run)
    outcomes: list[Outcome] = []
    for name, those in by_cluster.items():
        site = site_of(name)
        seen = _observe(site, [live[run.name] for run in those if run.name in live], store, clock)
        outcomes += [_decide(run.name, seen.get(run.name), site, store, clock, act) for run in those]
    return tuple(outcomes)


def _observe(site: Site, jobs: list[JobRecord], store: Store, clock: Clock) -> Mapping[str, Observation]:
    seen = observe(jobs, backend=site.backend, limits=site.cluster.limits, store=store, clock=clock)
    return {each.job.identity.run: each for each in seen}


def _decide(run: str, seen: Observation | None, site: Site, store: Store, clock: Clock, act: bool) -> Outcome:
    incident, decision = _sound(run, seen, site, store, clock)
    error = None
    if act and not isinstance(decision, Wait):
        try:
            execute.execute(
                decision, run, actor=ACTOR, store=store, cluster=site.cluster, backend=site.backend, clock=clock
            )
        except ClipctlError as caught:
            error = caught
    unobservable = seen.unobservable if seen else ""
    return Outcome(run=run, incident=incident, decision=decision, unobservable=unobservable, error=error)


def _sound(
    run: str, seen: Observation | None, site: Site, store: Store, clock: Clock
) -> tuple[Incident | None, Decision]:
    """Every byte of a parent is read before it is decided for; a damaged one is marked, and it is decided again."""
    record = store.run(run)
    while True:
        history = store.history(run)
        recovery = execute.current_spec(record, history.attempts[-1]).recovery
        evidence = seen.evidence if seen else None
        limits = site.cluster.limits
        incident, decision = policy.step(history, evidence, limits, recovery, now=clock.now())
        parent = decision.remedy.parent if isinstance(decision, Resubmit) else None
        if not isinstance(parent, CheckpointRecord) or parent.state is CheckpointState.DAMAGED:
            return incident, decision
        if execute.sound(parent, record, history, store):
            return incident, decision
