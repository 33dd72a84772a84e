"""One look at jobs: one poll of their scheduler and what their nodes wrote, stored, and judged."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clipctl import journal
from clipctl.backends import Backend
from clipctl.backends.slurm_codec import shown
from clipctl.diagnose import diagnose, gone, nodes_named
from clipctl.domain import (
    Cursor,
    Evidence,
    Incident,
    JobReport,
    JobState,
    JournalFacts,
    Limits,
    Pulse,
    QueueSnapshot,
    Unobservable,
    answer_about,
)
from clipctl.errors import ClipctlError
from clipctl.joblogs import SCRIPT_LOG, first_to_leave, rank_log, tail
from clipctl.journal import Files, LocalFiles
from clipctl.layout import RunFolder
from clipctl.ops.clock import Clock
from clipctl.pulse import felt
from clipctl.store import Answer, JobRecord, Steps
from clipctl.store.lease import Overtaken
from trainer.contract import EventKind, Exit, ExitCode, Heartbeat

if TYPE_CHECKING:
    from clipctl.store.writer import Store

LOG_LINES, SCRIPT_LINES = 8, 3  # of evidence
SRUN_LINES = 400  # of a script's log, where each node may have its lines after the one about the node that failed
FEW = 1000  # steps of a job that are held in memory until all jobs have been looked at
EVERYTHING = 1 << 62  # bytes
HALF = "it has written more than is read in one look; the next one goes on from there"
# What reading or judging a run may raise where its rows or files are not what was written.
UNREADABLE = (ClipctlError, OSError, ValueError, LookupError, TypeError)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How events are read: at most `most` bytes of each job in one look, and a sign of life after each batch."""

    most: int = EVERYTHING
    beat: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Observation:
    job: JobRecord  # as stored after this look
    evidence: Evidence
    incident: Incident | None
    unobservable: str = ""  # why the scheduler could not be asked, or what was not read; nothing is judged by halves
    steps: Steps | None = None  # that are stored with those of all other jobs, once all have been looked at

    @property
    def over(self) -> bool:
        """The job has ended for certain."""
        return not self.job.live


def observe(
    jobs: Sequence[JobRecord],
    *,
    backend: Backend,
    limits: Limits,
    store: Store,
    clock: Clock,
    reading: Reading | None = None,
    unread: dict[str, Exception] | None = None,
) -> tuple[Observation, ...]:
    """All jobs of one cluster, in one poll. What is seen is stored; looking again, by whomever, changes nothing.

    `unread`: takes, by run, what kept one of several jobs from being looked at; without it that is raised.
    """
    if not jobs:
        return ()
    live = [job.identity for job in jobs if job.live]
    came = {job.identity.nonce for job in jobs if _has_come(job)}
    answer = backend.poll(live) if live else Unobservable(reason="nothing to ask for")
    looks = []
    for job in jobs:
        try:
            looks.append(_look(job, job.identity.nonce in came, answer, limits, store, clock, reading or Reading()))
        except Overtaken:
            raise
        except UNREADABLE as error:
            if unread is None:
                raise
            unread[job.identity.run] = error
    pulses = {_attempt(look.job): pulse for look in looks if (pulse := look.evidence.pulse) is not None}
    store.went_on(pulses, {_attempt(look.job): look.steps for look in looks if look.steps is not None})
    return tuple(looks)


def _has_come(job: JobRecord) -> bool:
    """To the scheduler, as it has answered or the job's script shows; false also where its disk does not answer."""
    if job.answer is Answer.ACCEPTED or not job.live:
        return True
    try:
        return _claims(LocalFiles(), job)
    except OSError:  # it is read again, and told then
        return False


def _claims(files: Files, job: JobRecord) -> bool:
    claim = journal.claim(files, RunFolder(job.folder).attempt(job.identity.attempt))
    return claim is not None and claim.nonce == job.identity.nonce


def _look(
    job: JobRecord,
    came: bool,
    answer: QueueSnapshot | Unobservable,
    limits: Limits,
    store: Store,
    clock: Clock,
    reading: Reading,
) -> Observation:
    """`came`: before the scheduler was asked."""
    files, identity = LocalFiles(), job.identity
    answer = answer_about(job.scheduler_id, answer)
    report = answer.jobs.get(identity.nonce) if isinstance(answer, QueueSnapshot) else None
    told = job.live and isinstance(answer, QueueSnapshot) and _is_news(job, report)
    if told and isinstance(answer, QueueSnapshot):
        store.observed(identity.nonce, report, time=answer.time)
    # Before the events: whoever wrote exit.json had written the last event by then.
    exit_record = journal.exit_record(files, RunFolder(job.folder).job(identity.nonce))
    goes_on = report is not None and not report.over and exit_record is None
    written = _only_steps(job, files, reading) if goes_on else None
    if written is None:
        written = _ingest(job, store, clock, files, goes_on, reading)
    if told or written.anything:
        job = store.job(identity.nonce)
    if (steps := written.steps) is not None:
        job = replace(job, cursor=steps.after, landmarks=journal.landmarks(steps.events, job.landmarks))
    evidence = _evidence(job, report, answer, exit_record, written, limits, clock.now(), files)
    if report is None and not came and (evidence.submitted or evidence.claimed):
        evidence = replace(evidence, observed=False)  # the answer is older than the job
    if not written.whole:  # the rest may say the opposite, and of a job that has ended nothing is read any more
        return Observation(job=job, evidence=evidence, incident=None, unobservable=HALF)
    if written.anything or written.progressed or job.troubled or not goes_on:
        evidence = replace(evidence, series=store.series(identity.run, identity.attempt, steps.events if steps else ()))
    incident = diagnose(evidence, limits, now=evidence.time)
    if incident is not None:
        if steps is not None:
            store.went_on({}, {_attempt(job): steps})
            steps = None
        store.ingest(identity.run, identity.attempt, JournalFacts(), job.cursor, time=evidence.time, incident=incident)
    if job.live and (basis := _end(evidence, limits)):
        state = _end_state(report, exit_record)
        code = exit_record.code if exit_record else None
        store.ended(identity.nonce, state=state, basis=basis, time=evidence.time, exit_code=code)
        job = store.job(identity.nonce)
    reason = answer.reason if isinstance(answer, Unobservable) and job.live else ""
    return Observation(job=job, evidence=evidence, incident=incident, unobservable=reason, steps=steps)


def _attempt(job: JobRecord) -> tuple[str, int]:
    return job.identity.run, job.identity.attempt


def _is_news(job: JobRecord, report: JobReport | None) -> bool:
    """A transaction for each of a thousand jobs that go on as they did is most of what a look would cost."""
    if report is None:
        return job.missing_since is None
    known = (job.scheduler_id, job.state, job.raw, job.answer, job.missing_since)
    return known != (report.scheduler_id, report.state, report.raw, Answer.ACCEPTED, None)


@dataclass(frozen=True)
class _Written:
    heartbeat: Heartbeat | None
    anything: bool  # the store had not heard of
    progressed: bool  # steps among it
    whole: bool = True  # to the end of what there was
    steps: Steps | None = None  # where there is nothing else: they are stored with those of all other jobs


def _only_steps(job: JobRecord, files: Files, reading: Reading) -> _Written | None:
    """What most jobs of most looks have written: a few more steps, or nothing. None: something else, or much."""
    folder = RunFolder(job.folder).attempt(job.identity.attempt)
    facts, cursor = journal.read(files, folder, job.cursor, min(journal.BATCH, reading.most))
    if not (facts.events or facts.more):
        return _Written(facts.heartbeat, False, False)
    plain = job.landmarks.started is not None and all(event.kind == EventKind.PROGRESS for event in facts.events)
    if not plain or facts.more or len(facts.events) > FEW:
        return None
    steps = Steps(before=job.cursor.seq, after=cursor, events=facts.events)
    return _Written(facts.heartbeat, False, True, steps=steps)


def _ingest(job: JobRecord, store: Store, clock: Clock, files: Files, goes_on: bool, reading: Reading) -> _Written:
    """Checkpoints come and go only where a rank writes: while it `goes_on`, without an event there is nothing new."""
    run, attempt = _attempt(job)
    folder = RunFolder(job.folder).attempt(attempt)
    progressed, left, cursor = False, reading.most, job.cursor
    waiting: tuple[JournalFacts, Cursor] | None = None  # so that the last batch and the list are one transaction
    while True:
        facts, following = journal.read(files, folder, cursor, min(journal.BATCH, left))
        if facts.events or facts.more:
            if waiting is not None:
                store.ingest(run, attempt, *waiting, time=clock.now())
                reading.beat()
            waiting = facts, following
            progressed = progressed or any(event.kind == EventKind.PROGRESS for event in facts.events)
        left -= _taken(cursor, following)
        cursor = following
        if not facts.more or left <= 0:
            break
    if waiting is None and goes_on:
        return _Written(facts.heartbeat, False, False)
    listed = journal.checkpoints(files, folder)
    store.ingest(run, attempt, *(waiting or (JournalFacts(), job.cursor)), time=clock.now(), checkpoints=listed)
    return _Written(facts.heartbeat, True, progressed, whole=not facts.more)


def _taken(before: Cursor, after: Cursor) -> int:
    """Bytes; of a file that was replaced, all that was read of the new one."""
    again = after.inode != before.inode or after.offset < before.offset
    return after.offset if again else after.offset - before.offset


def _evidence(
    job: JobRecord,
    report: JobReport | None,
    answer: QueueSnapshot | Unobservable,
    exit_record: Exit | None,
    written: _Written,
    limits: Limits,
    now: float,
    files: Files,
) -> Evidence:
    final = job.landmarks.final
    ended = final is not None or exit_record is not None or job.missing_since is not None
    unexplained = final is None or final.kind == EventKind.CRASHED
    first, log = _logs(job, report, files) if ended and unexplained else (None, ())
    return Evidence(
        attempt=job.identity.attempt,
        time=now,
        job=report,
        observed=isinstance(answer, QueueSnapshot),
        submitted=job.answer is Answer.ACCEPTED,
        exit=exit_record,
        at_exit=shown(exit_record.scheduler, job.identity.nonce) if exit_record else None,
        final=final,
        diverged=job.landmarks.diverged,
        progress=job.landmarks.progress,
        heartbeat=written.heartbeat,
        started=job.landmarks.started,
        pulse=_pulse(job, report, written.heartbeat, limits, now),
        claimed=report is None and _claims(files, job),  # of one that is listed it does not matter
        missing_since=job.missing_since,
        cancel_requested=job.cancel_requested,
        stop_requested=job.stop_requested_at is not None,
        uid=os.getuid(),
        log_tail=log,
        left_first=first,
    )


def _pulse(
    job: JobRecord, report: JobReport | None, beat: Heartbeat | None, limits: Limits, now: float
) -> Pulse | None:
    """None: it never ran, as far as anybody saw."""
    running = report is not None and report.state is JobState.RUNNING
    if not running and job.pulse is None:
        return None
    return felt(job.pulse, beat, now=now, running=running, longest=limits.patience.look)


def _logs(job: JobRecord, report: JobReport | None, files: Files) -> tuple[int | None, tuple[str, ...]]:
    """The script saw which node failed and which rank went first; rank 0 may only have heard that its peer was gone."""
    folder = RunFolder(job.folder).job(job.identity.nonce)
    whole, rank = tail(files, folder.logs / SCRIPT_LOG, SRUN_LINES), tail(files, rank_log(folder, 0), LOG_LINES)
    first = first_to_leave(script := whole[-LOG_LINES:])
    its_own = tail(files, rank_log(folder, first), LOG_LINES) if first else ()
    last = script[-SCRIPT_LINES:] if rank or its_own else script
    begun_again = report is not None and report.restarts > 0  # earlier lines may be about an earlier start
    earlier = () if begun_again else whole[: len(whole) - len(last)]
    about_nodes = tuple(line for line in earlier if nodes_named([line]))[:LOG_LINES]
    return first, (*about_nodes, *last, *its_own, *rank)


def _end(evidence: Evidence, limits: Limits) -> str:
    """Why the job is over for certain; empty: it is not. The last word is not enough: ranks may still be saving."""
    report = evidence.job
    if report is not None and report.over:
        return f"the scheduler says {report.state}"
    if report is not None:
        return ""  # the script's trap may have run, but something of it still lives; COMPLETING counts as alive
    if evidence.exit is not None:
        return f"exit.json says code {evidence.exit.code}"
    return "absent from the scheduler's answers" if gone(evidence, limits, evidence.time) else ""


def _end_state(report: JobReport | None, exit_record: Exit | None) -> JobState:
    if report is not None and report.over:
        return report.state
    if exit_record is None:
        return JobState.UNKNOWN
    return JobState.COMPLETED if exit_record.code == ExitCode.COMPLETED else JobState.FAILED
