"""How a run goes on: what policy proposes or a person asks for, shown as a plan before anything is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipctl import policy
from clipctl.domain import (
    CANCELS,
    AttemptRecord,
    CheckpointRecord,
    CheckpointState,
    Decision,
    History,
    Hold,
    IncidentKind,
    Objection,
    Remedy,
    Resubmit,
    RunState,
)
from clipctl.errors import InvalidSpec, NotFound, Refused
from clipctl.journal import LocalFiles
from clipctl.layout import RunFolder
from clipctl.lineage import foreign, line_of, position
from clipctl.ops import execute
from clipctl.ops.clock import Clock
from clipctl.provenance import changed_since
from clipctl.spec import Cluster
from clipctl.store import RunRecord
from trainer.contract import Parent, Stream
from trainer.schedule import Geometry, learning_rate
from trainer.verify import damage, read_manifest

if TYPE_CHECKING:
    from clipctl.store.writer import Store


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a person asked for; empty: whatever policy proposes."""

    epoch: int | None = None  # training restarts *with* this epoch
    step: int | None = None
    checkpoint: Path | None = None
    patch: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names_a_parent(self) -> bool:
        return self.epoch is not None or self.step is not None or self.checkpoint is not None


@dataclass(frozen=True, kw_only=True)
class ResumePlan:
    record: RunRecord
    remedy: Remedy
    basis: str
    start: execute.Start
    changes: Mapping[str, tuple[Any, Any]]  # dotted path -> before, after; against the newest attempt
    before: Geometry
    after: Geometry
    objections: tuple[Objection, ...]
    versions: tuple[str, ...]  # what else changed since the parent was written
    number: int  # of the attempt that would be

    @property
    def start_position(self) -> tuple[int, int]:
        """(epochs done, steps into the next), in the new geometry."""
        parent = self.remedy.parent
        if parent is None:
            return 0, 0
        epochs, into = position(parent)
        if not into or not isinstance(parent, CheckpointRecord) or not self.fresh_stream:
            return epochs, into
        stream = parent.manifest.stream
        return epochs, self.after.steps_for(into * stream.batch_size * stream.ranks)

    @property
    def fresh_stream(self) -> bool:
        """Inside an epoch, with another batch, ranks or workers: its data cannot be taken up where it was left."""
        parent = self.remedy.parent
        if not isinstance(parent, CheckpointRecord) or parent.manifest.step_in_epoch == 0:
            return False
        after, origin = self.after, parent.manifest.stream.origin
        now = Stream(batch_size=after.batch_size, ranks=after.ranks, workers=after.workers, origin=origin)
        return now != parent.manifest.stream

    @property
    def first_rate(self) -> float:
        epochs, into = self.start_position
        train, steps = self.start.spec.train, self.after.steps_per_epoch
        return learning_rate(train.optim, epochs * steps + into, epochs=train.epochs, steps_per_epoch=steps)

    @property
    def samples_seen(self) -> int:
        parent = self.start.parent
        return parent.samples_seen if parent else 0


def plan(run: str, wish: Wish, *, store: Store, cluster: Cluster, clock: Clock) -> ResumePlan:
    """What resuming would do, with every objection to it. The run was observed right before.

    NotFound: no such checkpoint. Refused: policy proposes nothing, or a file of another program is damaged.
    InvalidSpec: a value that cannot be, or that makes it another run.
    """
    record = store.run(run)
    history, remedy, basis = _sound_remedy(wish, record, store, clock.now())
    newest = history.attempts[-1]
    spec = execute.current_spec(record, newest)
    start = execute.start_after(remedy, record, newest, cluster)
    changes = execute.changes(spec, start.spec)
    _refuse_another_run(changes)
    return ResumePlan(
        record=record,
        remedy=remedy,
        basis=basis,
        start=start,
        changes=changes,
        before=Geometry.of(spec.train, spec.ranks),
        after=Geometry.of(start.spec.train, start.spec.ranks),
        objections=(*policy.objections(remedy, history, settings=start.settings_digest), *_nothing_left(remedy, start)),
        versions=changed_since(LocalFiles(), start.folder, _written_by(remedy, newest)),
        number=store.next_attempt(run),
    )


def refuse(plan: ResumePlan, force: tuple[str, ...]) -> None:
    """Refused, with all that stands against the plan and that `force` does not overrule by name."""
    against = [item for item in plan.objections if item.final or item.name not in force]
    if not against:
        return
    hint = next((item.hint for item in against if item.hint), "")
    forcing = " ".join(f"--force {item.name}" for item in against)
    if not any(item.final for item in against) and forcing not in hint:
        hint += " | " * bool(hint) + f"{forcing} overrules"
    raise Refused("\n".join(f"{item.text} ({item.name})" for item in against), hint)


def decision(plan: ResumePlan, force: tuple[str, ...]) -> Resubmit:
    overruled = [item.name for item in plan.objections if item.name in force]
    basis = plan.basis + (f"; overruled: {', '.join(overruled)}" if overruled else "")
    return Resubmit(remedy=plan.remedy, basis=basis)


# --- what to start from -----------------------------------------------------------------------------


def _sound_remedy(wish: Wish, record: RunRecord, store: Store, now: float) -> tuple[History, Remedy, str]:
    """Every byte of the parent is read before it is proposed; a damaged one is marked, and not chosen again."""
    while True:
        history = store.history(record.name)
        remedy, basis = _remedy(wish, history, record, now)
        parent = remedy.parent
        if not isinstance(parent, CheckpointRecord) or parent.state is CheckpointState.DAMAGED:
            return history, remedy, basis
        if execute.sound(parent, record, history, store):
            return history, remedy, basis


def _remedy(wish: Wish, history: History, record: RunRecord, now: float) -> tuple[Remedy, str]:
    newest = history.attempts[-1]
    recovery = execute.current_spec(record, newest).recovery
    if wish.names_a_parent:
        return Remedy(parent=_named(wish, history, record), patch=wish.patch), "asked for by a person"
    if wish.patch:
        parent, why = policy.parent_after(history, newest.incident, recovery)
        return Remedy(parent=parent, patch=wish.patch), f"{why}; changes asked for by a person"
    # What a person decided before is an objection below, by its name; what policy would do otherwise is the question.
    asked = _set_going(history)
    chosen = policy.decide(asked, asked.attempts[-1].incident, recovery, now=now)
    if isinstance(chosen, Resubmit):
        return chosen.remedy, chosen.basis
    raise Refused(f"{record.name}: {chosen.basis}", _instead(chosen, history))


def _set_going(history: History) -> History:
    """As if a person had just now taken back every cancel and hold, and set going what was taken over: budgets begin
    anew, and nothing is waited for."""
    state = RunState.STOPPED if history.state in (RunState.HELD, RunState.CANCELLED) else history.state
    attempts = tuple(replace(_not_cancelled(attempt), adopted=False) for attempt in history.attempts)
    return replace(history, state=state, attempts=attempts, set_going_at=math.inf)


def _not_cancelled(attempt: AttemptRecord) -> AttemptRecord:
    incident = attempt.incident
    if incident is None or incident.kind not in CANCELS:
        return attempt
    return replace(attempt, incident=replace(incident, kind=IncidentKind.STOPPED))


def _instead(chosen: Decision, history: History) -> str:
    run = history.run
    if isinstance(chosen, Hold):
        return f"clipctl resume {run} --epoch N --set KEY=VALUE"
    if history.state is RunState.COMPLETED:
        return f"clipctl resume {run} --set train.epochs=N goes on beyond its end"
    live = any(attempt.live for attempt in history.attempts)
    return policy.against_live(history) if live else f"clipctl status {run}"


def _named(wish: Wish, history: History, record: RunRecord) -> CheckpointRecord | Parent | None:
    """The checkpoint that was asked for. Of two with one position the one on the way to where the run stands."""
    if wish.checkpoint is not None:
        return _file(wish.checkpoint, history, record)
    if wish.epoch == 1:
        return None
    wanted = f"epoch_{(wish.epoch or 1) - 1}.pt" if wish.epoch is not None else f"step_{wish.step}.pt"
    line = [item for item in line_of(history) if isinstance(item, CheckpointRecord)]
    for item in [*line, *reversed(history.checkpoints)]:
        if item.manifest.file == wanted and RunFolder(record.folder).resolve(item.path).exists():
            return item
    there = sorted({item.manifest.epochs_done + 1 for item in line if item.manifest.step_in_epoch == 0} | {1})
    raise NotFound(
        f"run '{record.name}' has no checkpoint {wanted}",
        hint=f"clipctl checkpoints {record.name} (--epoch can be {', '.join(map(str, there))})",
    )


def _file(path: Path, history: History, record: RunRecord) -> CheckpointRecord | Parent:
    """A record of this run; a checkpoint of another run of ours, with its manifest; or a file of open_clip's."""
    path = path.expanduser().absolute()
    stored = RunFolder(record.folder).relative(path)
    known = next((item for item in history.checkpoints if item.path == stored), None)
    if known is not None and path.exists():
        return known
    if not path.is_file():
        raise NotFound(f"{path}: no such file", hint=f"clipctl checkpoints {record.name}")
    try:
        manifest = read_manifest(path)
    except ValueError as error:
        raise Refused(f"{path}: its manifest cannot be read: {error}", f"clipctl checkpoints {record.name}") from error
    if (problem := damage(path, manifest)) is not None:
        raise Refused(f"{path}: {problem}", hint=f"clipctl checkpoints {record.name}")
    if manifest is None:
        return foreign(stored)
    return CheckpointRecord(path=stored, manifest=manifest, state=CheckpointState.VERIFIED)


# --- small parts ------------------------------------------------------------------------------------


_THE_RUN_ITSELF = ("name", "cluster", "root", "prepare", "train.model")


def _refuse_another_run(changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Its folder, its jobs' names and its checkpoints rest on them."""
    wrong = [path for path in _THE_RUN_ITSELF if path in changes]
    if wrong:
        lines = (f"{path}={changes[path][1]}: a run keeps its {path}, which is {changes[path][0]}" for path in wrong)
        raise InvalidSpec(tuple(lines), "clipctl launch PRESET|FILE --name NEW starts another run")


def _written_by(remedy: Remedy, newest: AttemptRecord) -> int:
    parent = remedy.parent
    if isinstance(parent, CheckpointRecord) and not parent.path.startswith("/"):
        return parent.manifest.attempt
    return newest.number


def _nothing_left(remedy: Remedy, start: execute.Start) -> tuple[Objection, ...]:
    epochs = start.spec.train.epochs
    if remedy.parent is None or position(remedy.parent)[0] < epochs:
        return ()
    text = f"all {epochs} epochs are done at this checkpoint: nothing is left to train"
    hint = f"clipctl resume {start.spec.name} --set train.epochs={epochs + 1}"
    return (Objection(name="nothing-left", text=text, hint=hint, final=True),)
