"""The job that stands by: in the queue while another runs, so that the next one has not to start queueing at its end.

Slurm starts it when that job is over (singleton), its own claim decides whether it may go on, and only then does it
become the run's newest attempt. It is removed before anything else is done to the run. Every step is on disk before its
effect, and `look` settles whatever a crash has left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipctl import journal
from clipctl.backends import Backend
from clipctl.diagnose import gone
from clipctl.domain import (
    Accepted,
    CheckpointState,
    Evidence,
    IncidentKind,
    JobHandle,
    JobState,
    QueueSnapshot,
    Rejected,
    RunState,
    Unobservable,
)
from clipctl.errors import Refused
from clipctl.journal import LocalFiles
from clipctl.layout import RunFolder
from clipctl.ops import execute
from clipctl.ops.clock import Clock
from clipctl.spec import Cluster
from clipctl.store import Answer, JobRecord, RunRecord, StandbyRecord
from trainer import contract
from trainer.contract import CLAIM_FILE, Claim

if TYPE_CHECKING:
    from clipctl.store.writer import Store

# Ends after which the same settings may go on without a word of policy: those that the claim lets pass.
GOES_ON = frozenset({IncidentKind.STOPPED, IncidentKind.TIMED_OUT, IncidentKind.PREEMPTED})
WHOLE = (CheckpointState.COMPLETE, CheckpointState.VERIFIED)
PATIENCE = 30.0  # seconds until a job that was removed has left the queue

Answered = QueueSnapshot | Unobservable


@dataclass(frozen=True, kw_only=True)
class Place:
    """What every step works with."""

    store: Store
    cluster: Cluster
    backend: Backend
    clock: Clock


# --- keep -------------------------------------------------------------------------------------------


def keep(run: str, at: Place, *, actor: str) -> str:
    """Submits one where a run that asks for one has none; what was done, in words. Empty: nothing.

    A scheduler that refuses is not asked again in this attempt.
    """
    record = at.store.run(run)
    if not _wanted(record, at.store.newest_job(run), at):
        return ""
    newest = at.store.history(run).attempts[-1]
    spec = execute.current_spec(record, newest)
    start = execute.Start(
        spec=spec, cluster=at.cluster, folder=RunFolder(record.folder), patch=newest.patch, after=newest.number
    )
    intent = execute.intent_of(start, actor, f"stands by for the end of attempt {newest.number}", at.clock.now())
    identity = at.store.intend_standby(run, newest.number, intent)
    try:
        answer = at.backend.submit(execute.write_files(start, identity), identity)
    except OSError as error:
        answer = Rejected(reason=f"{error.filename}: {error.strerror}")
    at.store.standby_answered(identity.nonce, answer, time=at.clock.now())
    if isinstance(answer, Rejected):
        return f"no job stands by: {answer.reason}"
    said = f"job {answer.scheduler_id}" if isinstance(answer, Accepted) else "a job"
    return f"{said} stands by for the end of attempt {newest.number}"


def _wanted(record: RunRecord, job: JobRecord, at: Place) -> bool:
    """While the newest attempt trains, and nobody wants it to end."""
    trains = job.live and job.state is JobState.RUNNING and job.landmarks.started is not None
    ends = job.landmarks.final or job.landmarks.diverged or job.cancel_requested or job.stop_requested_at is not None
    if at.cluster.scheduler != "slurm" or not trains or ends or _unwanted_run(record):
        return False
    store, number = at.store, job.identity.attempt
    return store.standby(record.name) is None and not store.standby_gave_up(record.name, number)


# --- look -------------------------------------------------------------------------------------------


def look(run: str, at: Place, answer: Answered | None = None) -> str:
    """Where the run's standby stands, stored; one that must not go on is removed. The run was looked at before.

    `answer`: a poll's, for who has asked already. Returned is what is waited for, in words, where policy must not start
    anything now; empty: it may speak.
    """
    standby = at.store.standby(run)
    if standby is None:
        return ""
    nonce, before, record = standby.identity.nonce, at.store.newest_job(run), at.store.run(run)
    answer = answer or at.backend.poll([standby.identity])
    over = _observe(standby, answer, at)  # before the claim: one that is over has claimed by now, or never will
    ignored = standby.withdrawn_at is not None or record.cancelled_at is not None
    claim = None if ignored else _claim(standby)
    if claim is None and over is None:
        return _waited_for(run, before, at)
    if claim is None and over is not None:
        state, basis = over
        at.store.standby_ended(nonce, state=state, basis=basis, time=at.clock.now())
    elif claim is not None and not before.live:
        basis = f"goes on where attempt {standby.after} ended"
        at.store.promote(nonce, claim.parent, basis=basis, time=at.clock.now())
        return f"attempt {standby.identity.attempt} {basis}"
    return ""


def _waited_for(run: str, before: JobRecord, at: Place) -> str:
    """Removes it where it is not wanted; told at every look, as words get lost."""
    standby = at.store.standby(run)
    assert standby is not None
    why = "" if standby.withdrawn_at is not None else _hangs(standby, at) or _unwanted(at.store.run(run), before, at)
    if why or standby.withdrawn_at is not None:
        remove(run, store=at.store, backend=at.backend, clock=at.clock, actor="clipctl", basis=why)
        standby = at.store.standby(run)
    return "" if before.live or standby is None else f"stands by: {standby.words}"


def _observe(standby: StandbyRecord, answer: Answered, at: Place) -> tuple[JobState, str] | None:
    """Stores what its scheduler says. Its last state and how that is known, where it is over for certain."""
    if isinstance(answer, Unobservable):
        return None
    nonce, now = standby.identity.nonce, at.clock.now()
    report = answer.jobs.get(nonce)
    at.store.standby_observed(nonce, report, time=answer.time)
    if report is not None:
        return (report.state, f"the scheduler says {report.state}") if report.over else None
    left = journal.exit_record(LocalFiles(), RunFolder(standby.folder).job(nonce))
    if left is not None:
        return JobState.FAILED, f"exit.json says code {left.code}"
    seen = at.store.standby(standby.identity.run)
    if seen is not None and gone(_evidence(seen, now), at.cluster.limits, now):
        return JobState.UNKNOWN, "absent from the scheduler's answers"
    return None


def _evidence(standby: StandbyRecord, now: float) -> Evidence:
    return Evidence(
        attempt=standby.identity.attempt,
        time=now,
        job=None,
        observed=True,
        submitted=standby.answer is Answer.ACCEPTED,
        missing_since=standby.missing_since,
    )


def _claim(standby: StandbyRecord) -> Claim | None:
    """Listed first: NFS clients remember what did not exist."""
    files, folder = LocalFiles(), RunFolder(standby.folder).attempt(standby.identity.attempt)
    claim = journal.claim(files, folder) if CLAIM_FILE in files.scandir(folder.path) else None
    return claim if claim is not None and claim.nonce == standby.identity.nonce else None


def _hangs(standby: StandbyRecord, at: Place) -> str:
    """Why one that Slurm has started is waited for no longer, in words: as long as for a first heartbeat."""
    if standby.running_since is None:
        return ""
    running, limits = at.clock.now() - standby.running_since, at.cluster.limits
    patience = limits.first_sign
    return f"it has run for {running:.0f} s without a claim; patience {patience:.0f} s" if running >= patience else ""


def _unwanted(record: RunRecord, before: JobRecord, at: Place) -> str:
    """Why it must not go on, in words. Its own claim would say the same, but only once its turn has come."""
    if why := _unwanted_run(record):
        return why
    history = at.store.history(record.name)
    incident, number = history.attempts[-1].incident, before.identity.attempt
    known = incident is not None and (before.landmarks.diverged or not (before.live or incident.alive))
    if incident is not None and known and incident.kind not in GOES_ON:
        return f"attempt {number}: {incident.kind.replace('_', ' ')}"
    if before.live:
        return ""
    if before.stop_requested_at is not None:
        return f"attempt {number} was stopped"
    saved = any(each.manifest.attempt == number and each.state in WHOLE for each in history.checkpoints)
    return "" if saved or not known else f"attempt {number} left no checkpoint"


def _unwanted_run(record: RunRecord) -> str:
    if record.cancelled_at is not None:
        return "the run was cancelled"
    if record.hold_reason is not None:
        return "the run is held"
    return "the run has completed" if record.state is RunState.COMPLETED else ""


# --- remove -----------------------------------------------------------------------------------------


def remove(run: str, *, store: Store, backend: Backend, clock: Clock, actor: str, basis: str) -> None:
    """It may not start from here on, whatever becomes of the scheduler. Whether it is gone, `look` finds out.

    Unavailable: the scheduler was not told; its claim reads that it is not wanted.
    """
    standby = store.standby(run)
    if standby is None:
        return
    identity = standby.identity
    store.withdraw(identity.nonce, actor=actor, basis=basis, time=clock.now())
    folder = RunFolder(standby.folder).job(identity.nonce)
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    contract.write_atomic(folder.withdrawn, "")
    backend.cancel(JobHandle(identity=identity, scheduler_id=standby.scheduler_id), force=True)


def clear(run: str, at: Place, *, actor: str, basis: str) -> None:
    """For who is about to start another job of the run. Refused: it is not known to be gone yet."""
    end = at.clock.now() + PATIENCE
    while at.store.standby(run) is not None:
        remove(run, store=at.store, backend=at.backend, clock=at.clock, actor=actor, basis=basis)
        look(run, at)
        if at.clock.now() >= end:
            raise Refused(f"the job of run '{run}' that stands by has not left the queue", f"clipctl status {run}")
        at.clock.sleep(0.5)
