"""A run's logbook: what people and policy decided and why, what became of it, in the order in which it happened."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipctl.domain import AttemptRecord, CheckpointState, Incident, QueueSnapshot, Unobservable
from clipctl.errors import NotFound
from clipctl.journal import Files, LocalFiles
from clipctl.ops.read.lineage import changes
from clipctl.ops.read.look import Look
from clipctl.ops.read.runs import run_seen
from clipctl.ops.read.shapes import batch_of
from clipctl.store import views
from clipctl.store.ledger import EntryKind
from clipctl.store.records import DecisionRecord
from trainer.contract import SCHEMA, Event, EventKind

PATIENCE = 3.0  # seconds for the run's folder
SCORES_TOLD = 3  # of an evaluation
CLIPCTL = ("clipctl", "scheduler")  # who tells what nobody decided
_LOCAL = LocalFiles()

Queues = Mapping[str, QueueSnapshot | Unobservable]  # by cluster
_NOBODY_ASKED: Queues = {}
_WORDS: Mapping[str, str] = {EventKind.CHECKPOINT: "saved", EventKind.CONTINUED: "goes on"}
_EVENTS = (
    EventKind.STARTED,
    EventKind.CONTINUED,
    EventKind.FAULT,
    EventKind.COMPLETED,
    EventKind.STOPPED,
    EventKind.CHECKPOINT,
)


@dataclass(frozen=True, kw_only=True)
class Line:
    time: float  # seconds since 1970; of what nodes say, their clock
    attempt: int | None
    what: str  # launch, resume, job, started, incident, ended, hold, ...
    text: str
    actor: str  # a user's name or "watchdog"; empty: nobody decided it


@dataclass(frozen=True, kw_only=True)
class HistoryView:
    run: str
    state: str
    folder: str
    next: str  # the command to type
    lines: tuple[Line, ...]  # oldest first
    schema: int = SCHEMA


def history(home: Path, name: str, *, now: float, queues: Queues = _NOBODY_ASKED, files: Files = _LOCAL) -> HistoryView:
    """As stored, and what the run's folder says beyond that. NotFound: there is no run of that name."""
    with views.reading(home) as connection:
        run = None if connection is None else views.run(connection, name)
        if connection is None or run is None:
            raise NotFound(f"there is no run {name!r}", hint="clipctl status --all")
        queue = queues.get(run.cluster)
        view, found = run_seen(connection, run, queue=queue, files=files, now=now, patience=PATIENCE)
        lines = [*_happened(connection, name, run.attempts, found), *_decided(connection, name)]
        if found.incident is not None and view.last_incident == found.incident:
            lines += _not_stored_yet(connection, name, found.incident, now)
    lines.sort(key=lambda line: (line.time, line.what not in _FIRST))
    return HistoryView(run=name, state=view.state, folder=view.folder, next=view.next, lines=tuple(lines))


# --- decisions --------------------------------------------------------------------------------------


def _decided(connection: sqlite3.Connection, run: str) -> Iterator[Line]:
    attempts = {attempt.number: attempt for attempt in views.attempts(connection, run)}
    for entry in views.decisions(connection, run):
        said = _SAID.get(entry.kind, _as_it_is)(entry)
        if entry.kind in _STARTS:
            said = (_FIRST[0] if entry.attempt == 1 else _FIRST[1], _start(attempts, entry))
        if said is not None:
            actor = "" if entry.actor in CLIPCTL else entry.actor
            yield Line(time=entry.time, attempt=entry.attempt, what=said[0], text=said[1], actor=actor)


def _start(attempts: Mapping[int, AttemptRecord], entry: DecisionRecord) -> str:
    """From where, with what, changed how, and why."""
    attempt = attempts[entry.attempt or 1]
    path = attempt.parent_path
    train = attempt.train
    parts = [f"from {path}" if path else "from the start"]
    batch = batch_of(attempt.ranks, train.get("batch_size", 0), train.get("accum_freq", 1))
    parts.append(f"{train.get('precision')}, {batch}")
    origin = attempts.get(_attempt_of(path)) if path else None
    if origin is not None:
        parts += [f"{each.path} {each.before} -> {each.after}" for each in changes(origin.train, train)]
    return "; ".join([*parts, entry.basis] if entry.basis != "launched" else parts)


def _attempt_of(path: str) -> int:
    """0: the file lies outside the run's folder."""
    parts = Path(path).parts
    return int(parts[1]) if parts[0] == "attempts" and len(parts) > 1 and parts[1].isdigit() else 0


_STARTS = (EntryKind.INTENT, EntryKind.PROMOTE)
_FIRST = ("launch", "resume")  # of what has one time: a log that was taken over tells whole seconds
Said = tuple[str, str] | None


def _as_it_is(entry: DecisionRecord) -> Said:
    """Also of kinds that a newer clipctl wrote."""
    return entry.kind, entry.basis


def _answer(entry: DecisionRecord) -> Said:
    answer = str(entry.facts.get("answer"))
    return "job", f"is {entry.basis}" if answer == "accepted" else f"{answer}: {entry.basis}"


def _seen(entry: DecisionRecord) -> Said:
    """What a scheduler says of a job changes often, and `status` tells it. Only: there it is after all."""
    return ("job", f"is {entry.facts['scheduler_id']}, found") if entry.facts.get("found") else None


def _incident(entry: DecisionRecord) -> Said:
    facts = entry.facts["incident"]
    where = "" if facts.get("epoch") is None else f" at epoch {facts['epoch']}"
    where += "" if facts.get("step_in_epoch") is None or not where else f", step {facts['step_in_epoch']}"
    kind = str(facts["kind"]).replace("_", " ")
    return "incident", f"{kind}{where}: {entry.basis}"


def _checked(entry: DecisionRecord) -> Said:
    damaged = entry.facts.get("state") == CheckpointState.DAMAGED
    return ("damaged", f"{entry.facts.get('path')}: not the bytes that were written") if damaged else None


def _save(entry: DecisionRecord) -> Said:
    return "save-now", f"request {entry.facts.get('request')}: a checkpoint at the next step"


def _evaluated(entry: DecisionRecord) -> Said:
    """With its first few scores: all of them are told by `clipctl evals`."""
    scored = [each for each in entry.facts.get("results") or () if each.get("metrics")]
    firsts = (f"{each['dataset']} {name} {value:.1%}" for each in scored for name, value in _first(each["metrics"]))
    return "evaluated", "; ".join([entry.basis, *itertools.islice(firsts, SCORES_TOLD)])


def _first(metrics: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    return itertools.islice(metrics.items(), 1)


_SAID: Mapping[str, Callable[[DecisionRecord], Said]] = {
    EntryKind.ANSWER: _answer,
    EntryKind.SEEN: _seen,
    EntryKind.ADOPT: lambda entry: ("taken over", entry.basis),
    EntryKind.END: lambda entry: ("ended", entry.basis),
    EntryKind.INCIDENT: _incident,
    EntryKind.CHECKED: _checked,
    EntryKind.SAVE: _save,
    EntryKind.STANDBY_ANSWER: _answer,
    EntryKind.EVALUATION: lambda entry: ("evaluate", entry.basis),
    EntryKind.EVALUATION_ANSWER: lambda entry: ("evaluate", " ".join(_answer(entry) or ())),
    EntryKind.EVALUATION_END: _evaluated,
    EntryKind.STANDBY_SEEN: lambda entry: None,
    EntryKind.STANDBY_END: lambda entry: ("ended", f"never started: {entry.basis}"),
}


def _not_stored_yet(connection: sqlite3.Connection, run: str, incident: Incident, now: float) -> list[Line]:
    stored = views.last_incident(connection, run)
    if stored is not None and (stored.attempt, stored.kind) == (incident.attempt, incident.kind):
        return []
    text = f"{incident.kind.replace('_', ' ')}: {incident.detail}"
    return [Line(time=now, attempt=incident.attempt, what="incident", text=text, actor="")]


# --- events -----------------------------------------------------------------------------------------


def _happened(connection: sqlite3.Connection, run: str, newest: int, found: Look) -> Iterator[Line]:
    """What nodes wrote: stored, and of the newest attempt what was found just now."""
    events = {(attempt, event.seq): event for attempt, event in views.events(connection, run, _EVENTS)}
    marks = found.landmarks
    fresh = (event for event in (marks.started, marks.checkpoint, marks.final) if event and event.kind in _EVENTS)
    events |= {(newest, event.seq): event for event in fresh}
    for (attempt, _), event in events.items():
        text = _event(event)
        if text is not None:
            what = _WORDS.get(event.kind, event.kind)
            yield Line(time=event.time, attempt=attempt, what=what, text=text, actor="")


def _event(event: Event) -> str | None:
    facts = event.facts
    if event.kind == EventKind.STARTED:
        hosts = facts.get("hosts")
        count = len(hosts) if isinstance(hosts, list) else 0
        where = f", on {count} host{'' if count == 1 else 's'}" if count else ""
        return f"with epoch {event.epoch}, step {event.step}{where}"
    if event.kind == EventKind.CHECKPOINT:
        request = facts.get("request")
        return None if request is None else f"{facts.get('path')}, for request {request}"
    if event.kind == EventKind.CONTINUED:
        return _continued(facts.get("before"), facts.get("after"))
    if event.kind == EventKind.FAULT:
        return f"rehearsed: {facts.get('fault')} from epoch {event.epoch}"
    return f"at step {event.step}, {event.samples_seen:,} samples" + _left(facts)


def _continued(before: object, after: object) -> str | None:
    """`loss 2.310 -> 2.331, lr 6.390e-04 -> 6.408e-04`: who sees a leap asks why."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return None
    named = ((name.replace("_", " "), before[name], after[name]) for name in before if name in after)
    return ", ".join(f"{name} {old:.4g} -> {new:.4g}" for name, old, new in named if _are_numbers(old, new)) or None


def _are_numbers(*values: object) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def _left(facts: Mapping[str, Any]) -> str:
    return f"; {facts['checkpoint']}" if facts.get("checkpoint") else ""
