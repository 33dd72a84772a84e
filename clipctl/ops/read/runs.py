"""One run as reading commands show it: the store's rows, moved on by a look where its job may live."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from clipctl.domain import (
    CANCELS,
    AttemptRecord,
    CheckpointRecord,
    CheckpointState,
    IncidentKind,
    JobState,
    QueueSnapshot,
    RunState,
)
from clipctl.errors import Damaged
from clipctl.journal import Files
from clipctl.layout import RunFolder
from clipctl.ops.read import advice
from clipctl.ops.read.look import Look, Queue, look, stored
from clipctl.ops.read.shapes import CheckpointView, JobView, Progress, RunView, StandbyView
from clipctl.reasons import waiting
from clipctl.store import progress as progress_of, standing, views
from clipctl.store.records import JobRecord, RunRecord, StandbyRecord
from trainer.contract import Event

_KNOWN_GOOD = (CheckpointState.COMPLETE, CheckpointState.VERIFIED)


def run_view(
    connection: sqlite3.Connection, run: RunRecord, *, queue: Queue, files: Files, now: float, patience: float
) -> RunView:
    return run_seen(connection, run, queue=queue, files=files, now=now, patience=patience)[0]


def run_seen(
    connection: sqlite3.Connection, run: RunRecord, *, queue: Queue, files: Files, now: float, patience: float
) -> tuple[RunView, Look]:
    """The look as well, for who shows more of the newest attempt."""
    job = views.newest_job(connection, run.name)
    attempt = views.attempt(connection, run.name, run.attempts)
    if job is None or attempt is None:
        raise Damaged(f"run '{run.name}' has no attempt in the store", hint=f"ls {run.folder}")
    if job.live:
        past = partial(progress_of.series, connection, run.name, run.attempts)
        found = look(run, job, queue=queue, files=files, now=now, patience=patience, past=past)
    else:
        found = stored(run, job)
    incident = found.incident or views.last_incident(connection, run.name)
    checkpoint = _last_checkpoint(connection, run, attempt, found)
    view = RunView(
        name=run.name,
        state=found.state,
        cluster=run.cluster,
        folder=str(run.folder),
        created_at=run.created_at,
        attempts=run.attempts,
        progress=progress(run, attempt, found),
        precision=str(attempt.train.get("precision", "")),
        batch_size=int(attempt.train.get("batch_size", 0)),
        accum_freq=int(attempt.train.get("accum_freq", 1)),
        ranks=attempt.ranks,
        faults=_faults(attempt.train),
        phase=found.heartbeat.phase if found.heartbeat and found.state is RunState.RUNNING else None,
        last_sign_of_life=_last_sign_of_life(found),
        last_checkpoint=checkpoint,
        last_incident=incident,
        job=job_view(job, found),
        standby=_standby(standing.of(connection, run.name), queue),
        hold_reason=run.hold_reason,
        notes=(*found.notes, *_notes(run, job, found)),
        next=_next(connection, run, attempt, found, now),
    )
    return view, found


def job_view(job: JobRecord, found: Look | None = None) -> JobView:
    report = found.report if found else job.report
    state = found.job_state if found else job.state
    reason = waiting(report) if report else None
    return JobView(
        nonce=job.identity.nonce,
        scheduler_id=report.scheduler_id if report else job.scheduler_id,
        state=state,
        raw=report.raw if report else job.raw if state is job.state else "",
        live=job.live and not (found and found.over),
        submitted_at=job.identity.submitted_at,
        cancel_requested=job.cancel_requested,
        waits=reason.text if reason else "",
        never_runnable=reason is not None and reason.never,
        expected_start=report.expected_start if report else None,
        ends_at=report.ends_at if report and report.state is JobState.RUNNING else None,
        nodes=report.nodes if report else "",
    )


def _standby(standby: StandbyRecord | None, queue: Queue) -> StandbyView | None:
    """With what its scheduler has just said, where it was asked."""
    if standby is None:
        return None
    report = queue.jobs.get(standby.identity.nonce) if isinstance(queue, QueueSnapshot) else None
    if report is not None:
        standby = replace(standby, state=report.state, reason=report.reason, scheduler_id=report.scheduler_id)
    return StandbyView(
        attempt=standby.identity.attempt,
        nonce=standby.identity.nonce,
        scheduler_id=standby.scheduler_id,
        state=standby.state,
        reason=standby.reason,
        removed=standby.withdrawn_at is not None,
        text=standby.words,
    )


# --- progress ---------------------------------------------------------------------------------------


def progress(run: RunRecord, attempt: AttemptRecord, found: Look) -> Progress:
    """The newest event's numbers, and the heartbeat's step where it is ahead of them."""
    event, beat = found.landmarks.progress, found.heartbeat
    if event is None:
        started = found.landmarks.started
        return Progress(
            epoch=started.epoch if started else None,
            epochs=run.epochs,
            step=started.step if started else None,
            samples_seen=started.samples_seen if started else attempt.samples_seen,
        )
    ahead = max(0, beat.step - event.step) if beat is not None and beat.epoch == event.epoch else 0
    place = _number(event, "step_in_epoch")
    seen = beat.samples_seen if beat is not None and ahead else event.samples_seen
    running = found.state is RunState.RUNNING
    return Progress(
        epoch=event.epoch,
        epochs=run.epochs,
        step_in_epoch=None if place is None else int(place) + ahead,
        steps_per_epoch=_whole(event, "steps_per_epoch"),
        step=event.step + ahead,
        samples_seen=seen,
        loss=_number(event, "loss"),
        samples_per_second=_number(event, "samples_per_second"),
        eta_seconds=_eta(run, attempt, event, seen - event.samples_seen) if running else None,
    )


def _eta(run: RunRecord, attempt: AttemptRecord, event: Event, ahead: int) -> float | None:
    """Training alone, at the rate of the last interval."""
    place, steps, rate = (_number(event, name) for name in ("step_in_epoch", "steps_per_epoch", "samples_per_second"))
    if place is None or steps is None or rate is None or not rate > 0:  # nan is not
        return None
    steps_left = (run.epochs - event.epoch) * steps + steps - place
    of_a_rank = int(attempt.train.get("batch_size", 0)) * int(attempt.train.get("accum_freq", 1))
    samples_left = steps_left * of_a_rank * attempt.ranks - ahead
    return max(0.0, samples_left / rate)


def _number(event: Event, name: str) -> float | None:
    """A fact as a number; "nan" and "inf" are numbers too. None for what another version may have made of it."""
    value = event.facts.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _whole(event: Event, name: str) -> int | None:
    value = _number(event, name)
    return int(value) if value is not None and value.is_integer() else None


def _last_sign_of_life(found: Look) -> float | None:
    times = [item.time for item in (found.heartbeat, found.landmarks.progress, found.landmarks.final) if item]
    return max(times, default=None)


def _faults(train: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(fault.get("kind")) for fault in train.get("faults") or () if isinstance(fault, dict))


# --- checkpoints ------------------------------------------------------------------------------------


def checkpoint_view(record: CheckpointRecord) -> CheckpointView:
    manifest = record.manifest
    return CheckpointView(
        path=record.path,
        attempt=manifest.attempt,
        epochs_done=manifest.epochs_done,
        step=manifest.step,
        step_in_epoch=manifest.step_in_epoch,
        samples_seen=manifest.samples_seen,
        loss=manifest.loss,
        size=manifest.size,
        digest=manifest.digest,
        state=record.state,
        time=manifest.time,
    )


def judged(stored: CheckpointRecord | None, here: CheckpointRecord) -> CheckpointRecord:
    """What a look at the bytes said counts as long as manifest and size are those that were looked at."""
    if stored is None or stored.state is CheckpointState.SUPERSEDED or stored.manifest != here.manifest:
        return here
    return stored if here.state is CheckpointState.COMPLETE else here


def _last_checkpoint(
    connection: sqlite3.Connection, run: RunRecord, attempt: AttemptRecord, found: Look
) -> CheckpointView | None:
    """Of the newest attempt: what its newest event announced or the store lists; else what it started from."""
    listed = [
        record
        for record in views.checkpoints(connection, run.name, attempt=attempt.number)
        if record.state in _KNOWN_GOOD
    ]
    event = found.landmarks.checkpoint
    if event is not None and all(record.manifest.samples_seen < event.samples_seen for record in listed):
        return _announced(run, attempt, event)
    if listed:
        return checkpoint_view(listed[-1])
    parent = next((r for r in views.checkpoints(connection, run.name) if r.path == attempt.parent_path), None)
    return checkpoint_view(parent) if parent else None


def _announced(run: RunRecord, attempt: AttemptRecord, event: Event) -> CheckpointView:
    """The event follows the manifest, so the file was whole when this was written."""
    folder = RunFolder(run.folder)
    path = folder.attempt(attempt.number).path / str(event.facts.get("path", ""))
    digest = event.facts.get("digest")
    return CheckpointView(
        path=folder.relative(path),
        attempt=attempt.number,
        epochs_done=_whole(event, "epochs_done") or 0,
        step=event.step,
        step_in_epoch=_whole(event, "step_in_epoch") or 0,
        samples_seen=event.samples_seen,
        loss=None,
        size=None,
        digest=None if digest is None else str(digest),
        state=CheckpointState.COMPLETE,
        time=event.time,
    )


# --- words ------------------------------------------------------------------------------------------


def _notes(run: RunRecord, job: JobRecord, found: Look) -> tuple[str, ...]:
    notes = []
    reason = waiting(found.report) if found.report and not found.over else None
    if reason is not None:
        notes.append(f"never runnable: {reason.text}" if reason.never else f"waits: {reason.text}")
    if job.live and not found.over and job.cancel_requested:
        notes.append("cancel requested; its job has not ended yet")
    if run.hold_reason is not None and found.state is not RunState.HELD:
        notes.append(f"held: {run.hold_reason}; nothing is started after this job")
    if found.state is RunState.UNKNOWN:
        asked = "the scheduler does not list its job" if job.answer else "no answer to its submission is recorded"
        notes.append(f"{asked}, and nothing says how it ended")
    return tuple(notes)


def _next(connection: sqlite3.Connection, run: RunRecord, attempt: AttemptRecord, found: Look, now: float) -> str:
    incident = found.incident or attempt.incident
    if found.state is RunState.STOPPED and incident is not None and incident.kind in CANCELS:
        return advice.plain(run.name, RunState.CANCELLED)
    if found.state is not RunState.STOPPED or incident is None or incident.kind is not IncidentKind.DIVERGED:
        return advice.plain(run.name, found.state)
    known = views.history(connection, run)
    newest = replace(known.attempts[-1], incident=incident, live=False)
    records = {record.path: record for record in known.checkpoints}
    records |= {record.path: judged(records.get(record.path), record) for record in found.checkpoints}
    attempts = (*known.attempts[:-1], newest)
    history = replace(known, state=found.state, attempts=attempts, checkpoints=tuple(records.values()))
    return advice.after_divergence(history, views.recovery(run), now=now)
