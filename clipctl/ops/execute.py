"""The one path of side effects: what a decision does, whoever took it. Intent, then files, then the submission."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipctl.backends import Backend
from clipctl.domain import (
    Accepted,
    CheckpointRecord,
    CheckpointState,
    Complete,
    Decision,
    History,
    Hold,
    Incident,
    IncidentKind,
    JobHandle,
    JobIdentity,
    JournalFacts,
    Rejected,
    Remedy,
    Resubmit,
    Stop,
    Unknown,
    Wait,
)
from clipctl.errors import Refused, Unavailable
from clipctl.layout import RunFolder
from clipctl.ops.clock import Clock
from clipctl.policy import settings_digest
from clipctl.render import render
from clipctl.spec import Cluster, Patch, RunSpec, diff, patched, spec_from_json, spec_to_json
from clipctl.store import Intent, NewRun, RunRecord
from clipctl.store.ledger import standing
from trainer import contract
from trainer.contract import Parent
from trainer.verify import damage

if TYPE_CHECKING:
    from clipctl.domain import AttemptRecord
    from clipctl.store.writer import Store

IDENTITY = ("--job-name=", "--comment=")  # options by whose values a job is known


@dataclass(frozen=True, kw_only=True)
class Start:
    """One attempt, resolved: shown by launch and resume, done by this module."""

    spec: RunSpec
    cluster: Cluster
    folder: RunFolder
    parent: Parent | None = None
    patch: Patch | None = None  # what differs from the run as launched
    after: int | None = None  # of a standby: the attempt whose end says where it starts, in place of `parent`

    @property
    def train(self) -> dict[str, Any]:
        raw: dict[str, Any] = json.loads(contract.dumps(self.spec.train))
        return raw

    @property
    def settings_digest(self) -> str:
        return settings_digest(self.train, self.spec.ranks)


@dataclass(frozen=True, kw_only=True)
class Submitted:
    identity: JobIdentity
    answer: Accepted | Unknown


def sound(parent: CheckpointRecord, record: RunRecord, history: History, store: Store) -> bool:
    """Reads every byte of it, and writes down what that said: a damaged one is not chosen again."""
    intact = damage(RunFolder(record.folder).resolve(parent.path), parent.manifest) is None
    if parent in history.checkpoints:
        state = CheckpointState.VERIFIED if intact else CheckpointState.DAMAGED
        store.checked(record.name, parent.path, state, time=time.time())
    return intact


# --- what would be done: pure -----------------------------------------------------------------------


def launched_spec(record: RunRecord) -> RunSpec:
    return spec_from_json(record.spec)


def current_spec(record: RunRecord, newest: AttemptRecord) -> RunSpec:
    """The settings of the newest attempt. Every value of `train` is given, so that no profile has a say."""
    elsewhere = {path: value for path, value in newest.patch.items() if not path.startswith("train.")}
    return patched(launched_spec(record), {**elsewhere, "train": newest.train})


def start_after(remedy: Remedy, record: RunRecord, newest: AttemptRecord, cluster: Cluster) -> Start:
    """What `remedy` means for this run: its newest settings, changed, from the parent's file."""
    spec = patched(current_spec(record, newest), remedy.patch)
    changes = diff(launched_spec(record), spec)
    return Start(
        spec=spec,
        cluster=cluster,
        folder=RunFolder(record.folder),
        parent=parent_of(remedy.parent),
        patch=changes,
    )


def parent_of(checkpoint: CheckpointRecord | Parent | None) -> Parent | None:
    if not isinstance(checkpoint, CheckpointRecord):
        return checkpoint
    manifest = checkpoint.manifest
    return Parent(
        path=checkpoint.path,
        digest=manifest.digest,
        epochs_done=manifest.epochs_done,
        step=manifest.step,
        samples_seen=manifest.samples_seen,
    )


# --- what is done -----------------------------------------------------------------------------------


def execute(
    decision: Decision, run: str, *, actor: str, store: Store, cluster: Cluster, backend: Backend, clock: Clock
) -> Submitted | None:
    """None where the decision starts nothing. Refused: a job of the run may be alive, or the scheduler said no."""
    now = clock.now()
    match decision:
        case Resubmit(remedy=remedy, basis=basis):
            start = start_after(remedy, store.run(run), store.history(run).attempts[-1], cluster)
            identity = store.intend(run, intent_of(start, actor, basis, now))
            return _submit(start, identity, actor, store, backend, clock)
        case Stop(basis=basis):
            _stop(run, actor, basis, store, cluster, backend, now)
        case Hold(basis=basis):
            store.hold(run, actor=actor, basis=basis, time=now)
        case Complete(basis=basis):
            store.complete(run, actor=actor, basis=basis, time=now)
        case Wait():
            pass
    return None


def _stop(run: str, actor: str, basis: str, store: Store, cluster: Cluster, backend: Backend, now: float) -> None:
    """It saves and leaves, or is killed when its grace is over. Told at every look, as words get lost."""
    job = store.newest_job(run)
    if not job.live:
        return
    job = store.stop(job.identity.nonce, actor=actor, basis=basis, time=now)
    asked = now if job.stop_requested_at is None else job.stop_requested_at
    handle = JobHandle(identity=job.identity, scheduler_id=job.scheduler_id)
    backend.cancel(handle, force=now - asked >= cluster.limits.stop_grace)


def begin(start: Start, *, actor: str, store: Store, backend: Backend, clock: Clock) -> Submitted:
    """A new run and its first attempt. Refused: the name is taken, or the scheduler said no."""
    now, text = clock.now(), spec_to_json(start.spec)
    _new_folder(start.folder, text)
    new = NewRun(
        name=start.spec.name,
        run_id=secrets.token_hex(4),
        folder=start.folder.path,
        cluster=start.spec.cluster,
        scheduler=start.cluster.scheduler,
        spec=text,
        epochs=start.spec.train.epochs,
        limits=start.cluster.limits,
    )
    identity = store.create(new, intent_of(start, actor, "launched", now))
    return _submit(start, identity, actor, store, backend, clock)


def _new_folder(folder: RunFolder, spec: str) -> None:
    """run.json is created, never replaced: of two launches of one name the slower must not change the faster's."""
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _created(folder.run, spec) and (standing(folder) or folder.run.read_text("utf-8") != spec):
            raise Refused(f"{folder.path} is in use already", hint=_instead_of(folder))
        contract.sync_folder(folder.path.parent)
    except OSError as error:
        look = f"ls -ld {folder.path.parent}"
        raise Unavailable(f"{folder.path}: {error.strerror}; nothing was launched", look) from error


def _instead_of(folder: RunFolder) -> str:
    """A launch that was killed before its commit leaves a folder that no store knows, and from which nothing ran."""
    if (folder.path / "jobs").exists():
        return "choose another --name, or another root"
    return "choose another --name; or, if a launch of yours was killed there: clipctl db rebuild"


def _created(path: Path, text: str) -> bool:
    """False: it was there. Whole or not at all, as a link appears at once."""
    whole = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    contract.write_atomic(whole, text)
    try:
        os.link(whole, path)
        contract.sync_folder(path.parent)
    except FileExistsError:
        return False
    finally:
        whole.unlink()
    return True


def intent_of(start: Start, actor: str, basis: str, now: float) -> Intent:
    return Intent(
        nonce=secrets.token_hex(8),
        time=now,
        actor=actor,
        basis=basis,
        train=start.train,
        ranks=start.spec.ranks,
        settings_digest=start.settings_digest,
        parent=start.parent,
        patch=start.patch or {},
    )


def _submit(start: Start, identity: JobIdentity, actor: str, store: Store, backend: Backend, clock: Clock) -> Submitted:
    try:
        script = write_files(start, identity)
    except OSError as error:
        reason = f"{error.filename or start.folder.path}: {error.strerror}"
        answer = Rejected(reason=reason, transient=True)  # known for certain: nothing was submitted
        _rejected(identity, answer, store, clock)
        raise Unavailable(f"{reason}; nothing was submitted", f"clipctl resume {identity.run}") from error
    said = backend.submit(script, identity)
    if isinstance(said, Rejected):
        _rejected(identity, said, store, clock)
        refusal = Unavailable if said.transient else Refused
        raise refusal(f"the scheduler refused: {said.reason}", f"clipctl resume {identity.run}")
    store.answered(identity.nonce, said, time=clock.now())
    if isinstance(said, Accepted) and (basis := _unrecognizable(said)):
        store.hold(identity.run, actor=actor, basis=basis, time=clock.now())
    return Submitted(identity=identity, answer=said)


def _unrecognizable(job: Accepted) -> str:
    """A job whose name or comment the site has changed is never found again: another would be submitted after it."""
    changed = [line for line in job.differences if line.startswith(IDENTITY)]
    if not changed:
        return ""
    said = "; ".join(changed)
    return f"job {job.scheduler_id} cannot be recognized ({said}): scancel {job.scheduler_id}, and ask the site"


def _rejected(identity: JobIdentity, answer: Rejected, store: Store, clock: Clock) -> None:
    now = clock.now()
    store.answered(identity.nonce, answer, time=now)
    kind, passes = IncidentKind.SUBMIT_REFUSED, answer.transient
    incident = Incident(kind=kind, attempt=identity.attempt, detail=answer.reason, passes=passes)
    cursor = store.job(identity.nonce).cursor
    store.ingest(identity.run, identity.attempt, JournalFacts(), cursor, time=now, incident=incident)


def write_files(start: Start, identity: JobIdentity) -> Path:
    """attempt.json, job.json and the script, all on disk before anything is submitted; the script's path."""
    attempt_folder, job_folder = start.folder.attempt(identity.attempt), start.folder.job(identity.nonce)
    for folder in (attempt_folder.path, job_folder.path, job_folder.logs):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    attempt = contract.Attempt(
        run=identity.run,
        number=identity.attempt,
        ranks=start.spec.ranks,
        train=start.spec.train,
        parent=start.parent,
        after=start.after,
    )
    contract.write_atomic(attempt_folder.attempt, contract.dumps(attempt))
    job = contract.Job(run=identity.run, attempt=identity.attempt, nonce=identity.nonce)
    contract.write_atomic(job_folder.job, contract.dumps(job))
    contract.write_atomic(job_folder.submission, script_of(start, identity))
    return job_folder.submission


def script_of(start: Start, identity: JobIdentity) -> str:
    """The job script, byte for byte as it is submitted."""
    return render(start.spec, start.cluster, identity=identity, run_folder=start.folder, python=sys.executable)


def changes(before: RunSpec, after: RunSpec) -> Mapping[str, tuple[Any, Any]]:
    """Dotted paths to the values before and after; lists and maps as they are."""
    new, old = diff(before, after), diff(after, before)
    return {path: (old.get(path), value) for path, value in new.items()}
