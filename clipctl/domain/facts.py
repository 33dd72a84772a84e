"""What is seen and told: jobs, answers of schedulers, evidence, and incidents made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from clipctl.pulse import Pulse
from clipctl.series import Series
from trainer.contract import Event, Exit, Heartbeat


class JobState(StrEnum):
    """Slurm's own state names, never merged. UNKNOWN: could not ask, or a word of a newer Slurm (kept in `raw`)."""

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    STOPPED = "STOPPED"
    SIGNALING = "SIGNALING"
    STAGE_OUT = "STAGE_OUT"
    COMPLETING = "COMPLETING"
    REQUEUED = "REQUEUED"
    REQUEUE_FED = "REQUEUE_FED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    RESIZING = "RESIZING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    DEADLINE = "DEADLINE"
    PREEMPTED = "PREEMPTED"
    NODE_FAIL = "NODE_FAIL"
    BOOT_FAIL = "BOOT_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    REVOKED = "REVOKED"
    UNKNOWN = "UNKNOWN"


ENDED_STATES = frozenset(
    {
        JobState.COMPLETED,
        JobState.CANCELLED,
        JobState.FAILED,
        JobState.TIMEOUT,
        JobState.DEADLINE,
        JobState.PREEMPTED,
        JobState.NODE_FAIL,
        JobState.BOOT_FAIL,
        JobState.OUT_OF_MEMORY,
        JobState.REVOKED,
    }
)


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    STOPPED = "stopped"
    HELD = "held"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class CheckpointState(StrEnum):
    COMPLETE = "complete"  # has its manifest and its size
    VERIFIED = "verified"  # and its bytes are the ones that were written
    DAMAGED = "damaged"
    SUPERSEDED = "superseded"  # pruned by the trainer, or of an attempt that was rolled back behind it


class IncidentKind(StrEnum):
    """How an attempt ended, or what troubles it. A kind exists once `diagnose` can tell it."""

    DIVERGED = "diverged"
    CRASHED = "crashed"
    STOPPED = "stopped"  # asked to by a signal that nothing explains, with a checkpoint
    PREEMPTED = "preempted"
    TIMED_OUT = "timed_out"  # wall time; with a checkpoint where the save signal came through
    NODE_FAILED = "node_failed"
    OUT_OF_MEMORY = "out_of_memory"
    FENCED = "fenced"
    LOST = "lost"  # its processes are gone without a word
    CANCELLED_BY_USER = "cancelled_by_user"
    CANCELLED_BY_ADMIN = "cancelled_by_admin"  # or by whom the scheduler does not say
    HUNG = "hung"  # alive, without progress for longer than its phase may take
    SLOW = "slow"  # far below its own or its peers' pace
    STORAGE = "storage"  # no space, no quota, or an I/O error where it saves or reads
    BAD_DATA = "bad_data"  # too few of the samples can be used
    NEVER_RUNNABLE = "never_runnable"  # waits for what its partition will never have
    SUBMIT_REFUSED = "submit_refused"  # the scheduler said no, or the job's files could not be written: no job exists


class Form(StrEnum):
    """The faces of a divergence, and of a want of memory."""

    NAN = "nan"  # loss or gradient norm not finite
    SPIKE = "spike"  # a rise that does not come back
    PLATEAU = "plateau"  # stuck near what guessing gives
    HOST_MEMORY = "host_memory"
    GPU_MEMORY = "gpu_memory"


CANCELS = frozenset({IncidentKind.CANCELLED_BY_USER, IncidentKind.CANCELLED_BY_ADMIN})


@dataclass(frozen=True, kw_only=True)
class Incident:
    kind: IncidentKind
    attempt: int
    detail: str  # nan, or the error in one line
    form: Form | None = None  # of a divergence, or of a want of memory
    epoch: int | None = None  # in progress at the onset, from 1
    step_in_epoch: int | None = None
    step: int | None = None
    samples_seen: int | None = None
    ranks: tuple[int, ...] = ()  # which saw it first
    nodes: tuple[str, ...] = ()  # that are to blame, by the scheduler's names; empty: none, or not known
    rise: bool | None = None  # before a divergence, whose place is then where that began; None: not known
    alive: bool = False  # its job went on when this was found: to be judged anew at each look
    passes: bool = True  # False: the same start would end the same way until a person changes something
    lines: tuple[str, ...] = ()  # evidence that a person can check


# --- jobs -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class JobIdentity:
    """What makes a job ours. A scheduler's id is not an identity: ids are lost and given to others."""

    run: str
    run_id: str
    attempt: int
    nonce: str
    submitted_at: float  # the intent's time

    @property
    def job_name(self) -> str:
        return f"clipctl-{self.run_id}"

    @property
    def comment(self) -> str:
        return f"clipctl:{self.run}:{self.attempt}:{self.nonce}"


class EvaluationIdentity(JobIdentity):
    """A job that evaluates a checkpoint of `attempt`. Its name and comment are none by which a run's job is known."""

    @property
    def job_name(self) -> str:
        return f"{super().job_name}.eval"

    @property
    def comment(self) -> str:
        return f"clipctl-eval:{self.run}:{self.attempt}:{self.nonce}"


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """One job as the scheduler tells it."""

    nonce: str
    scheduler_id: str
    state: JobState
    raw: str  # the scheduler's own text
    started_at: float | None = None
    ends_at: float | None = None  # when wall time is over; once it ended, when
    expected_start: float | None = None  # the scheduler's estimate while it waits
    reason: str = ""  # the scheduler's word for why it waits, or ended
    nodes: str = ""  # as the scheduler writes them: jwb[0001-0096]
    failed_nodes: Mapping[str, str] = field(default_factory=dict)  # that it ended by, and the scheduler's words for why
    node_count: int | None = None
    partition: str = ""
    partition_nodes: int | None = None  # what it gives one job at most, asked while the job waits
    restarts: int = 0  # the same id started again, by the site
    exit_code: str = ""  # of the script, code:signal
    derived_exit_code: str = ""  # the highest of its steps
    preempted_at: float | None = None
    cancelled_by: int | None = None  # uid, where the scheduler says it
    settled: bool = True  # False: it ended a moment ago, and accounting, which says by whom, is about to hear of it

    @property
    def over(self) -> bool:
        return self.state in ENDED_STATES and self.settled


@dataclass(frozen=True, kw_only=True)
class QueueSnapshot:
    """All own jobs, from one query that answered."""

    time: float
    jobs: Mapping[str, JobReport]  # by nonce
    host: str | None = None  # set: only jobs that were started there can be seen

    def covers(self, scheduler_id: str | None) -> bool:
        """A home on a network file system is shared by hosts that do not see each other's processes."""
        return self.host is None or scheduler_id is None or scheduler_id.endswith(f"@{self.host}")


@dataclass(frozen=True, kw_only=True)
class Unobservable:
    """The scheduler could not be asked. Never the same as "no jobs"."""

    reason: str


def answer_about(scheduler_id: str | None, answer: QueueSnapshot | Unobservable) -> QueueSnapshot | Unobservable:
    """What an answer says about one job: nothing, where it was asked on another host than the job's."""
    if isinstance(answer, QueueSnapshot) and not answer.covers(scheduler_id):
        return Unobservable(reason=f"the job {scheduler_id} is on another host than this one")
    return answer


@dataclass(frozen=True, kw_only=True)
class JobHandle:
    """What it takes to end a job."""

    identity: JobIdentity
    scheduler_id: str | None = None  # None: the submission was never answered


@dataclass(frozen=True, kw_only=True)
class Accepted:
    scheduler_id: str
    differences: tuple[str, ...] = ()  # what the scheduler made of the script that is not what it says, a line each


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """Refused with a known text: no job exists."""

    reason: str
    transient: bool = False  # nothing is wrong with the script: a limit is used up, or the scheduler is busy


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """May or may not have been accepted: look it up, never submit again blindly."""

    reason: str


# --- what is known ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class JournalFacts:
    """What the journal of one attempt says, as far as it was read."""

    events: tuple[Event, ...] = ()  # new since the cursor, in order
    heartbeat: Heartbeat | None = None
    torn: bool = False  # the last line is not whole yet
    more: bool = False  # there is more than was to be read at once
    skipped: int = 0  # lines that are no events


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """How far the events of an attempt were read."""

    offset: int = 0
    inode: int = 0
    seq: int = 0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that is known at one moment of one attempt and its job."""

    attempt: int
    time: float
    job: JobReport | None  # None: not among the scheduler's jobs
    observed: bool  # False: the scheduler could not be asked
    submitted: bool  # an answer to the submission is recorded
    exit: Exit | None = None
    at_exit: JobReport | None = None  # the scheduler's word on the job when its script ended, from exit.json
    final: Event | None = None  # the trainer's last word
    diverged: Event | None = None  # the first one
    progress: Event | None = None  # newest
    heartbeat: Heartbeat | None = None
    started: Event | None = None  # newest
    pulse: Pulse | None = None  # for how long it has not moved
    series: Series | None = None  # up to now; None: nothing new in it since it was judged
    claimed: bool = False
    missing_since: float | None = None  # first successful answer that omitted the job, without a later sighting
    cancel_requested: bool = False  # by a person
    stop_requested: bool = False  # by a Stop decision: how the job ends says nothing new
    uid: int | None = None  # this user's
    log_tail: tuple[str, ...] = ()
    left_first: int | None = None  # the rank that the script saw go before all others
