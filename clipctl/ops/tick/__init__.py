"""One pass of the watchdog: every job that may live is looked at, every run that may go on is decided upon."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipctl.domain import Hold, Wait
from clipctl.errors import ClipctlError, Unavailable
from clipctl.ops import evaluations
from clipctl.ops.clock import Clock
from clipctl.ops.tick.visit import Outcome, Site, Visit, failed
from clipctl.store import open_store
from clipctl.store.due import Due, due
from clipctl.store.lease import Lease, Term, host
from clipctl.store.ticks import Tick, last_tick, rotate_log, write_tick

if TYPE_CHECKING:
    from clipctl.store.writer import Store

__all__ = ["ALARM", "Outcome", "Report", "Site", "tick", "watch"]

ALARM = 600.0  # seconds for which a scheduler may be silent before that is said

Sites = Callable[[str], Site]  # from a cluster's name


@dataclass(frozen=True, kw_only=True)
class Report:
    outcomes: tuple[Outcome, ...]
    held: int  # runs that wait for a person
    silent: Mapping[str, float]  # clusters that did not answer, and since when
    lines: tuple[str, ...]  # one for each that was decided, happened or went wrong

    @property
    def quiet_lines(self) -> tuple[str, ...]:
        """The others: what goes on as before, and what could not be asked for a moment."""
        waits = (item for item in self.outcomes if isinstance(item.decision, Wait) and not item.error)
        return tuple(f"{item.run}: {item.unobservable or item.decision.basis}" for item in waits)

    @property
    def unseen(self) -> bool:
        """Something could not be observed; the next tick may."""
        transient = any(outcome.error is not None and outcome.error.transient for outcome in self.outcomes)
        return bool(self.silent) or transient or any(outcome.unobservable for outcome in self.outcomes)

    @property
    def needs_a_person(self) -> bool:
        lasting = any(outcome.error is not None and not outcome.error.transient for outcome in self.outcomes)
        return self.held > 0 or lasting or any(isinstance(outcome.decision, Hold) for outcome in self.outcomes)


def watch(lease: Lease, sites: Sites, *, home: Path, clock: Clock) -> Report:
    """A tick and its record, in a term of this process.

    Unavailable, Damaged: the store cannot be read. Overtaken: another process has begun a tick.
    """
    started, at = time.monotonic(), clock.now()
    try:
        with open_store(home) as store:
            report = tick(sites, store=store, clock=clock, lease=lease)
        if lease.broken is not None:
            report = replace(report, lines=(_broken(lease.broken), *report.lines))
        lease.check()
        took = time.monotonic() - started
        write_tick(home, _record(report, at=at, took=took, every=lease.term.every))
        rotate_log(home)
    except OSError as error:
        raise Unavailable(f"{error.filename or home}: {error.strerror or error}", hint=f"df -h {home}") from error
    finally:
        lease.end()
    return report


def tick(sites: Sites, *, store: Store, clock: Clock, act: bool = True, lease: Lease | None = None) -> Report:
    """Without `act` everything is seen and decided, and nothing is done. Overtaken: another process has begun one."""
    home = store.path.parent
    found, scoring = evaluations.take_in(store, clock) if act else ((), ())
    everything = due(home, clock.now())
    empty = (*everything.doubtful, *(each.cluster for each in scoring))
    by_cluster: dict[str, list[Due]] = defaultdict(list, {name: [] for name in empty})
    for each in everything.runs:
        by_cluster[each.cluster].append(each)
    outcomes: list[Outcome] = []
    silence: dict[str, str] = {}
    for name, runs in by_cluster.items():
        try:
            beside = [each for each in scoring if each.cluster == name]
            visit = Visit(site=sites(name), store=store, clock=clock, act=act, lease=lease, scoring=beside)
        except (ClipctlError, OSError) as error:  # a profile that is not there any more
            outcomes += [failed(each.run, error) for each in runs]
            continue
        outcomes += visit.all(runs)
        found += visit.lost
        if visit.silence:
            silence[name] = visit.silence
    silent = _since(silence, last_tick(home), clock.now())
    lines = [*(line for outcome in outcomes for line in _lines(outcome)), *found]
    lines += _alarms(silence, silent, clock.now())
    return Report(outcomes=tuple(outcomes), held=due(home, clock.now()).held, silent=silent, lines=tuple(lines))


def _record(report: Report, *, at: float, took: float, every: float | None) -> Tick:
    return Tick(
        host=host(),
        at=at,
        took=took,
        runs=len(report.outcomes),
        held=report.held,
        said=report.lines,
        silent=report.silent,
        every=every,
    )


# --- words ------------------------------------------------------------------------------------------


def _since(silence: Mapping[str, str], before: Tick | None, now: float) -> Mapping[str, float]:
    known = before.silent if before else {}
    return {name: float(known.get(name, now)) for name in silence}


def _lines(outcome: Outcome) -> Iterator[str]:
    yield from (f"{outcome.run}: {note}" for note in outcome.notes)
    if not isinstance(outcome.decision, Wait):
        did = type(outcome.decision).__name__.lower()
        yield f"{outcome.run}: {did}: {outcome.decision.basis}"
    if outcome.error is not None:
        hint = f" ({outcome.error.hint})" if outcome.error.hint else ""
        yield f"{outcome.run}: not done: {outcome.error.message}{hint}"


def _alarms(silence: Mapping[str, str], since: Mapping[str, float], now: float) -> Iterator[str]:
    """A controller may be away for some minutes without anybody being told."""
    for name, reason in silence.items():
        minutes = (now - since[name]) / 60
        if minutes * 60 >= ALARM:
            yield f"{name} has not answered for {minutes:.0f} minutes, so nothing is done there: {reason}"


def _broken(term: Term) -> str:
    holder = term.holder
    return f"the tick of process {holder.pid} on {holder.host} never came to its end: this one goes on"
