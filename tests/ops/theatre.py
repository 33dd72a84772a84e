"""A scheduler and nodes that do what a test says, over a real store and real files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipctl.domain import (
    Accepted,
    JobHandle,
    JobIdentity,
    JobReport,
    JobState,
    Limits,
    QueueSnapshot,
    Rejected,
    RunState,
    Unknown,
    Unobservable,
)
from clipctl.layout import RunFolder
from clipctl.ops import execute, resume
from clipctl.ops.execute import Start, Submitted
from clipctl.ops.observe import Observation, observe
from clipctl.spec import RunSpec, load_cluster, resolve
from clipctl.store.writer import Store
from trainer import contract
from trainer.contract import CheckpointManifest, Event, EventKind, Exit, Precision, Stream
from trainer.schedule import Geometry
from trainer.verify import digest


@dataclass
class Time:
    seconds: float = 1_000_000.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class Scheduler:
    """`jobs`: what it lists, by nonce."""

    time: Time
    answer: Accepted | Rejected | Unknown = field(default_factory=lambda: Accepted(scheduler_id="17"))
    jobs: dict[str, JobState] = field(default_factory=dict)
    reachable: bool = True
    host: str | None = None  # set: it sees only jobs of that host, as the local backend does
    submitted: list[Path] = field(default_factory=list)

    def submit(self, script: Path, identity: JobIdentity) -> Accepted | Rejected | Unknown:
        self.submitted.append(script)
        if isinstance(self.answer, Accepted):
            self.jobs[identity.nonce] = JobState.RUNNING
        return self.answer

    def poll(self, asked: Sequence[JobIdentity]) -> QueueSnapshot | Unobservable:
        if not self.reachable:
            return Unobservable(reason="timed out")
        jobs = {nonce: self._report(nonce) for nonce in self.jobs}
        return QueueSnapshot(time=self.time.now(), jobs=jobs, host=self.host)

    def find(self, identity: JobIdentity) -> JobReport | Unobservable | None:
        return self._report(identity.nonce) if identity.nonce in self.jobs else None

    def cancel(self, job: JobHandle, *, force: bool) -> None:
        self.jobs.pop(job.identity.nonce, None)

    def _report(self, nonce: str) -> JobReport:
        state = self.jobs[nonce]
        return JobReport(nonce=nonce, scheduler_id="17", state=state, raw=str(state))


@dataclass
class Stage:
    """One run. `spec`, as launched."""

    store: Store
    spec: RunSpec
    time: Time = field(default_factory=Time)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.time)
        patience = Limits(lost_after=180.0)  # as for a scheduler that can be late
        self.cluster = load_cluster(self.spec.cluster).model_copy(update={"limits": patience})
        assert self.spec.root is not None
        self.folder = RunFolder.of(self.spec.root, self.spec.name)

    @property
    def run(self) -> str:
        return self.spec.name

    @property
    def state(self) -> RunState:
        return self.store.run(self.run).state

    # --- what people do -------------------------------------------------------------------------

    def launch(self) -> Submitted:
        start = Start(spec=self.spec, cluster=self.cluster, folder=self.folder)
        return execute.begin(start, actor="ada", store=self.store, backend=self.scheduler, clock=self.time)

    def plan(self, **wish: Any) -> resume.ResumePlan:
        return resume.plan(self.run, resume.Wish(**wish), store=self.store, cluster=self.cluster, clock=self.time)

    def resume(self, *, force: tuple[str, ...] = (), **wish: Any) -> Submitted:
        plan = self.plan(**wish)
        resume.refuse(plan, force)
        begun = execute.execute(
            resume.decision(plan, force), self.run, actor="ada", store=self.store, cluster=self.cluster,
            backend=self.scheduler, clock=self.time,
        )  # fmt: skip
        assert begun is not None
        return begun

    def look(self) -> Observation:
        job = self.store.newest_job(self.run)
        assert job is not None
        (seen,) = observe([job], backend=self.scheduler, limits=self.cluster.limits, store=self.store, clock=self.time)
        return seen

    # --- what nodes do --------------------------------------------------------------------------

    def event(self, kind: EventKind, *, epoch: int, into: int, **facts: Any) -> None:
        """At `into` steps of `epoch`, in the newest attempt's geometry."""
        number = self.store.run(self.run).attempts
        path = self.folder.attempt(number).events
        seq = len(path.read_text().splitlines()) + 1 if path.exists() else 1
        geometry = self._geometry(number)
        step = (epoch - 1) * geometry.steps_per_epoch + into
        event = Event(
            seq=seq, time=self.time.now(), kind=kind, epoch=epoch, step=step,
            samples_seen=step * geometry.global_batch, facts={"step_in_epoch": into, **facts},
        )  # fmt: skip
        with open(path, "a") as file:
            file.write(contract.dumps(event) + "\n")

    def save(self, epochs: int, *, into: int = 0) -> Path:
        number = self.store.run(self.run).attempts
        geometry, folder = self._geometry(number), self.folder.attempt(number)
        step = epochs * geometry.steps_per_epoch + into
        name = f"step_{step}.pt" if into else f"epoch_{epochs}.pt"
        path = (folder.steps if into else folder.checkpoints) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"weights of attempt {number} after {step} steps".encode())
        spec = self._attempt(number).train
        manifest = CheckpointManifest(
            file=name, size=path.stat().st_size, digest=digest(path), run=self.run, attempt=number,
            epochs_done=epochs, step=step, step_in_epoch=into, samples_seen=step * geometry.global_batch,
            loss=1.0, finite=True, precision=Precision(spec.precision), time=self.time.now(),
            stream=Stream(batch_size=geometry.batch_size, ranks=geometry.ranks, workers=spec.data.workers),
        )  # fmt: skip
        contract.write_atomic(path.with_name(f"{name}.json"), contract.dumps(manifest))
        self.event(EventKind.CHECKPOINT, epoch=epochs + 1, into=into, path=str(path.relative_to(folder.path)))
        return path

    def end(self, code: int) -> None:
        """The script's trap has run, and the scheduler forgot the job."""
        job = self.store.newest_job(self.run)
        assert job is not None
        folder = self.folder.job(job.identity.nonce)
        contract.write_atomic(folder.exit, contract.dumps(Exit(code=code, time=self.time.now())))
        self.scheduler.jobs.pop(job.identity.nonce, None)
        self.look()

    def _attempt(self, number: int) -> contract.Attempt:
        return contract.loads(contract.Attempt, self.folder.attempt(number).attempt.read_bytes())

    def _geometry(self, number: int) -> Geometry:
        attempt = self._attempt(number)
        return Geometry.of(attempt.train, attempt.ranks)


def demo(*sets: str) -> RunSpec:
    """Three epochs of ten steps, two ranks."""
    small = ("train.epochs=3", "train.data.train_num_samples=960", "train.optim.warmup=2", "resources.ranks_per_node=2")
    return resolve("demo", sets=[*small, *sets], name="tiny")
