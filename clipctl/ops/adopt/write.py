"""The run's folder, written beside its place and renamed into it, then indexed as `db rebuild` would."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipctl.domain import Incident, RunState
from clipctl.errors import Refused, Unavailable
from clipctl.joblogs import rank_log
from clipctl.layout import RunFolder
from clipctl.ops import execute
from clipctl.ops.adopt.plan import PROGRAM, Plan
from clipctl.ops.clock import Clock
from clipctl.spec import spec_to_json
from clipctl.store import ledger
from clipctl.store.ledger import EntryKind
from clipctl.store.transactions import Entry
from trainer import contract
from trainer.contract import Attempt
from trainer.verify import manifest_path

if TYPE_CHECKING:
    from clipctl.store.writer import Store

_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES})


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """For people and for JSON."""

    run: str
    folder: str
    source: str
    state: str
    checkpoints: tuple[str, ...]  # in the run's folder, oldest first
    linked: str  # how they came there
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    incident: Incident | None
    next: str  # the command to type
    schema: int = contract.SCHEMA


def adopt(plan: Plan, *, actor: str, store: Store, clock: Clock) -> Adopted:
    """Refused: the name, or the folder of that name, is taken; then nothing is left of the attempt."""
    folder = plan.folder
    try:
        with _beside(folder.path) as scratch:
            how = _write(plan, RunFolder(scratch), actor, clock.now())
            _put_in_place(scratch, folder)
            try:
                store.adopt(plan.spec.name, folder.path)
            except BaseException:
                os.rename(folder.path, scratch)
                raise
    except OSError as error:
        look = f"ls -ld {folder.path.parent}"
        raise Unavailable(f"{error.filename or folder.path}: {error.strerror}; nothing was taken over", look) from error
    run, state = plan.spec.name, store.run(plan.spec.name).state
    return Adopted(
        run=run,
        folder=str(folder.path),
        source=str(plan.source),
        state=str(state),
        checkpoints=tuple(f"attempts/1/checkpoints/{each.file}" for each in plan.checkpoints.values()),
        linked=how,
        left_out=plan.left_out,
        notes=plan.notes,
        incident=plan.incident,
        next=f"clipctl {'show' if state is RunState.COMPLETED else 'resume'} {run}",
    )


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A folder on the same file system, so that a rename puts it there whole. What is left of it goes."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    scratch.mkdir(mode=0o700)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _put_in_place(scratch: Path, folder: RunFolder) -> None:
    """A folder that is in use is not empty, and nothing can be renamed onto it."""
    try:
        os.rename(scratch, folder.path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        hint = "choose another --name; or, if an adopt of yours was killed there: clipctl db rebuild --root ROOT"
        raise Refused(f"{folder.path} is in use already", hint) from error
    contract.sync_folder(folder.path.parent)


def _write(plan: Plan, folder: RunFolder, actor: str, now: float) -> str:
    """All files of the run, its checkpoints last. Returns how these came there."""
    attempt = folder.attempt(1)
    attempt.checkpoints.mkdir(mode=0o700, parents=True)
    train = plan.spec.train
    told = Attempt(run=plan.spec.name, number=1, ranks=plan.spec.ranks, train=train)
    contract.write_atomic(folder.run, spec_to_json(plan.spec))
    contract.write_atomic(attempt.attempt, contract.dumps(told))
    contract.write_atomic(attempt.events, "".join(f"{contract.dumps(event)}\n" for event in plan.events))
    nonce = secrets.token_hex(8)
    if plan.log is not None:  # for `clipctl logs`
        logs = folder.job(nonce).logs
        logs.mkdir(mode=0o700, parents=True)
        _link(plan.log, rank_log(folder.job(nonce), 0))
    how = [_link(path, attempt.checkpoints / manifest.file) for path, manifest in plan.checkpoints.items()]
    for manifest in plan.checkpoints.values():
        contract.write_atomic(manifest_path(attempt.checkpoints / manifest.file), contract.dumps(manifest))
    for entry in _entries(plan, nonce, actor, now):
        ledger.append(folder, entry.line(plan.spec.name))
    return "; ".join(dict.fromkeys(how))


def _link(path: Path, place: Path) -> str:
    """A hard link needs no room, and stays when the experiment's folder goes."""
    try:
        os.link(path, place)
        return "hard links: they need no room, and stay when the files there are deleted"
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        place.symlink_to(path)
        return f"symbolic links ({error.strerror}): the files must stay where they are"


def _entries(plan: Plan, nonce: str, actor: str, now: float) -> Iterator[Entry]:
    """As its first line any run has an intent: here it is when and as what it was begun, and by which program."""
    start = execute.Start(spec=plan.spec, cluster=plan.cluster, folder=plan.folder)
    began, ended = plan.events[0].time, max(event.time for event in plan.events)
    spec = plan.spec
    facts = {
        "run_id": secrets.token_hex(4),
        "cluster": spec.cluster,
        "scheduler": plan.cluster.scheduler,
        "epochs": spec.train.epochs,
        "limits": json.loads(contract.dumps(plan.cluster.limits)),
        "nonce": nonce,
        "ranks": spec.ranks,
        "parent": None,
        "settings_digest": start.settings_digest,
        "patch": {},
        "train": start.train,
    }
    basis = f"begun by {PROGRAM}"
    yield Entry(kind=EntryKind.INTENT, actor=PROGRAM, basis=basis, time=began, attempt=1, facts=facts)
    taken, basis = {"nonce": nonce, "ended_at": ended, "source": str(plan.source)}, f"from {plan.source}"
    yield Entry(kind=EntryKind.ADOPT, actor=actor, basis=basis, time=now, attempt=1, facts=taken)
    if plan.incident is not None:
        said, detail = {"incident": plan.incident}, plan.incident.detail
        yield Entry(kind=EntryKind.INCIDENT, actor="clipctl", basis=detail, time=now, attempt=1, facts=said)
