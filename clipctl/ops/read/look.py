"""A look at a job that may live, in memory: what its nodes wrote since the store last heard, judged as usual."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from clipctl import journal
from clipctl.backends.slurm_codec import shown
from clipctl.diagnose import diagnose, early_signs, gone
from clipctl.domain import (
    CheckpointRecord,
    Evidence,
    Incident,
    JobReport,
    JobState,
    Limits,
    QueueSnapshot,
    RunState,
    Series,
    Unobservable,
    answer_about,
)
from clipctl.journal import Files, Landmarks
from clipctl.layout import RunFolder
from clipctl.pulse import felt
from clipctl.run_state import RunFacts, run_state
from clipctl.series import OF_SERIES, TAIL
from clipctl.store.records import Answer, JobRecord, RunRecord
from trainer.contract import Event, Exit, ExitCode, Heartbeat

Queue = QueueSnapshot | Unobservable | None  # None: not asked


@dataclass(frozen=True, kw_only=True)
class Look:
    """Where the newest job of a run stands."""

    state: RunState
    job_state: JobState
    over: bool  # the job has ended for certain, whether or not the store has heard of it
    landmarks: Landmarks
    report: JobReport | None = None
    heartbeat: Heartbeat | None = None
    incident: Incident | None = None
    checkpoints: tuple[CheckpointRecord, ...] = ()  # of this attempt, listed only where it diverged
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Written:
    """What the run's folder says."""

    landmarks: Landmarks
    heartbeat: Heartbeat | None = None
    fresh: tuple[Event, ...] = ()  # of steps that the store has not heard of, the newest of them
    exit: Exit | None = None
    claimed: bool = False
    checkpoints: tuple[CheckpointRecord, ...] = ()


def look(
    run: RunRecord,
    job: JobRecord,
    *,
    queue: Queue,
    files: Files,
    now: float,
    patience: float,
    past: Callable[[Sequence[Event]], Series],
) -> Look:
    """Never longer than `patience` seconds: a file system that hangs is said to, and the store's word is shown.

    `past`: the store's losses and, after them, those of events that it has not heard of.
    """
    notes: tuple[str, ...] = ()
    written = _Written(landmarks=job.landmarks)
    try:
        written = _within(patience, job, files)
    except TimeoutError:
        notes = (f"{job.folder} did not answer within {patience:g} s: this is what the store knew",)
    except OSError as error:
        notes = (f"{job.folder} could not be read ({error.strerror}): this is what the store knew",)
    asked, queue = queue, queue and answer_about(job.scheduler_id, queue)
    if isinstance(queue, Unobservable) and queue is not asked:
        notes += (queue.reason,)
    report = queue.jobs.get(job.identity.nonce) if isinstance(queue, QueueSnapshot) else None
    missing_since = _missing_since(job, report, queue)
    evidence = _evidence(job, written, report, queue, missing_since, run.limits, now)
    if written.fresh or job.troubled:
        evidence = replace(evidence, series=past(written.fresh))
    incident = diagnose(evidence, run.limits, now=now)
    return Look(
        state=_state(run, job, evidence, incident),
        job_state=_job_state(job, evidence),
        over=_over(evidence, run.limits, now),
        landmarks=written.landmarks,
        report=report,
        heartbeat=written.heartbeat,
        incident=incident,
        checkpoints=written.checkpoints,
        notes=notes + early_signs(evidence, run.limits),
    )


def _within(patience: float, job: JobRecord, files: Files) -> _Written:
    """In a thread of its own, which is left behind where the file system never answers."""
    found: list[_Written | OSError] = []

    def read() -> None:
        try:
            found.append(_read(job, files))
        except OSError as error:
            found.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(patience)
    if not found:
        raise TimeoutError
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def _read(job: JobRecord, files: Files) -> _Written:
    folder = RunFolder(job.folder)
    attempt = folder.attempt(job.identity.attempt)
    # Before the events: whoever wrote exit.json had written the last event by then
    exit_record = journal.exit_record(files, folder.job(job.identity.nonce))
    claim = journal.claim(files, attempt)
    landmarks, heartbeat = job.landmarks, None
    fresh: deque[Event] = deque(maxlen=TAIL)
    for facts, _ in journal.read_all(files, attempt, job.cursor):
        landmarks, heartbeat = journal.landmarks(facts.events, landmarks), facts.heartbeat
        fresh.extend(event for event in facts.events if event.kind in OF_SERIES)
    claimed = claim is not None and claim.nonce == job.identity.nonce
    listed = journal.checkpoints(files, attempt) if landmarks.diverged else ()
    return _Written(
        landmarks=landmarks,
        heartbeat=heartbeat,
        fresh=tuple(fresh),
        exit=exit_record,
        claimed=claimed,
        checkpoints=listed,
    )


def _missing_since(job: JobRecord, report: JobReport | None, queue: Queue) -> float | None:
    if not isinstance(queue, QueueSnapshot):
        return job.missing_since
    if report is not None:
        return None
    return queue.time if job.missing_since is None else job.missing_since


def _evidence(
    job: JobRecord,
    written: _Written,
    report: JobReport | None,
    queue: Queue,
    missing_since: float | None,
    limits: Limits,
    now: float,
) -> Evidence:
    running = report is not None and report.state is JobState.RUNNING
    pulse = felt(job.pulse, written.heartbeat, now=now, running=running, longest=limits.patience.look)
    return Evidence(
        attempt=job.identity.attempt,
        time=now,
        job=report,
        observed=isinstance(queue, QueueSnapshot),
        submitted=job.answer is Answer.ACCEPTED,
        exit=written.exit,
        at_exit=shown(written.exit.scheduler, job.identity.nonce) if written.exit else None,
        final=written.landmarks.final,
        diverged=written.landmarks.diverged,
        progress=written.landmarks.progress,
        heartbeat=written.heartbeat,
        started=written.landmarks.started,
        pulse=pulse,
        claimed=written.claimed,
        missing_since=missing_since,
        cancel_requested=job.cancel_requested,
        stop_requested=job.stop_requested_at is not None,
        uid=os.getuid(),
    )


def _over(evidence: Evidence, limits: Limits, now: float) -> bool:
    """As an observation would store it. The trainer's last word is not enough: ranks may still be saving."""
    if evidence.job is not None:
        return evidence.job.over
    return evidence.exit is not None or gone(evidence, limits, now)


def _job_state(job: JobRecord, evidence: Evidence) -> JobState:
    """What the store heard last is only worth something where nobody knows better by now."""
    if evidence.job is not None:
        return evidence.job.state
    if evidence.exit is not None:
        return JobState.COMPLETED if evidence.exit.code == ExitCode.COMPLETED else JobState.FAILED
    return JobState.UNKNOWN if evidence.observed else job.state


def _state(run: RunRecord, job: JobRecord, evidence: Evidence, incident: Incident | None) -> RunState:
    alive = evidence.progress is not None or evidence.heartbeat is not None or evidence.claimed
    facts = RunFacts(
        job=evidence.job.state if evidence.job else job.state,
        ended=not job.live or evidence.exit is not None or (incident is not None and not incident.alive),
        submitted=evidence.submitted,
        missing=evidence.missing_since is not None,
        alive=alive,
        final=evidence.final.kind if evidence.final else None,
        held=run.hold_reason is not None,
        cancelled=run.cancelled_at is not None,
    )
    return run_state(facts)


def stored(run: RunRecord, job: JobRecord) -> Look:
    """What the store says: for a job that is over, whose journal was read to its end."""
    return Look(state=run.state, job_state=job.state, over=True, landmarks=job.landmarks, report=job.report)
