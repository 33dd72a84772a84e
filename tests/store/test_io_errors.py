"""A disk that fails at any one of the changes that a command makes: nothing is lost, and nothing is started twice."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clipctl.domain import Accepted, JobHandle, JobIdentity, JobReport, JobState, QueueSnapshot, RunState
from clipctl.errors import ClipctlError
from clipctl.ops import hold
from clipctl.ops.clock import SystemClock
from clipctl.ops.database import check, rebuild_database
from clipctl.ops.tick import Site, tick
from clipctl.store import home as homes, open_store
from clipctl.store.writer import Store
from tests.ops.theatre import Stage, Time, demo
from tests.store.faulty import BUG, ERRORS, with_fault
from tests.store.tables_of import tables
from trainer.contract import EventKind, Exit, ExitCode, dumps, write_atomic

NAN = {"loss": "nan", "grad_norm": "nan", "scale": 1.0, "ranks": [0, 1], "cause": "loss"}


@dataclass
class Queue:
    """A scheduler that outlives the process that asks it: a file for each job, on another disk."""

    folder: Path
    time: Time
    submitted: list[Path] = field(default_factory=list)

    def nonces(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def submit(self, script: Path, identity: JobIdentity) -> Accepted:
        (self.folder / identity.nonce).touch()
        return Accepted(scheduler_id=f"job-{identity.nonce}")

    def poll(self, asked: Sequence[JobIdentity]) -> QueueSnapshot:
        jobs = {nonce: self._report(nonce) for nonce in self.nonces()}
        return QueueSnapshot(time=self.time.now(), jobs=jobs)

    def find(self, identity: JobIdentity) -> JobReport | None:
        return self._report(identity.nonce) if identity.nonce in self.nonces() else None

    def cancel(self, job: JobHandle, *, force: bool) -> None:
        (self.folder / job.identity.nonce).unlink(missing_ok=True)

    def _report(self, nonce: str) -> JobReport:
        return JobReport(nonce=nonce, scheduler_id=f"job-{nonce}", state=JobState.RUNNING, raw="R")


class World:
    """A home that is put back as it was for each try, and the queue beside it."""

    def __init__(self, home: Path, beside: Path) -> None:
        self.home, self.queue, self.saved = home, beside / "queue", beside / "saved"
        self.queue.mkdir()

    def stage(self, store: Store, time: Time | None = None) -> Stage:
        stage = Stage(store, demo("train.precision=amp_fp16"), time=time or Time())
        stage.scheduler = Queue(self.queue, stage.time)  # type: ignore[assignment]
        return stage

    def keep(self) -> None:
        shutil.copytree(self.home, self.saved)

    def put_back(self) -> None:
        shutil.rmtree(self.home)
        shutil.copytree(self.saved, self.home)
        for job in self.queue.iterdir():
            job.unlink()

    def tick(self, time: Time) -> None:
        with open_store(self.home) as store:
            stage = self.stage(store, time)
            tick(lambda _: Site(cluster=stage.cluster, backend=stage.scheduler), store=store, clock=time)


@pytest.fixture
def world(home: Path, tmp_path: Path) -> World:
    return World(home, tmp_path)


# --- what is done, from which beginning --------------------------------------------------------------


def nothing_yet(world: World) -> None:
    with open_store(world.home):
        pass


def diverged(world: World, seen: bool = True) -> None:
    with open_store(world.home) as store:
        run = world.stage(store)
        run.launch()
        run.save(1)
        run.event(EventKind.DIVERGED, epoch=2, into=5, **NAN)
        nonce = store.newest_job("tiny").identity.nonce
        ended = Exit(code=ExitCode.DIVERGED, time=run.time.now())
        write_atomic(run.folder.job(nonce).exit, dumps(ended))
        (world.queue / nonce).unlink()
        if seen:
            run.look()


def launch(world: World) -> None:
    with open_store(world.home) as store:
        world.stage(store).launch()


def resume(world: World) -> None:
    with open_store(world.home) as store:
        world.stage(store).resume()


def held(world: World) -> None:
    with open_store(world.home) as store:
        stage = world.stage(store, Time(1_000_500.0))
        backend = stage.scheduler
        hold.hold("tiny", reason="later", actor="ada", store=store, backend=backend, clock=stage.time)


def one_tick(world: World) -> None:
    world.tick(Time(1_000_500.0))


@dataclass(frozen=True)
class Command:
    before: Callable[[World], None]
    do: Callable[[World], None]
    jobs: int  # that there are when it got through


COMMANDS = {
    "launch": Command(nothing_yet, launch, 1),
    "resume": Command(diverged, resume, 1),
    "hold": Command(diverged, held, 0),
    "tick": Command(lambda world: diverged(world, seen=False), one_tick, 1),
}


# --- what must be true ------------------------------------------------------------------------------


def is_sound(world: World, tmp_path: Path) -> None:
    """The store knows every job that was submitted; one may live; and the folders bear out the database."""
    with open_store(world.home) as store:
        known = {job.identity.nonce for job in store.jobs_live()}
        assert set(world.queue.iterdir()) <= {world.queue / nonce for nonce in known}
        assert len(known) <= 1
    if known or tables(homes.database(world.home))["runs"]:
        assert check(world.home).problems == ()


def goes_on(world: World, command: Command) -> None:
    """The same again, as a person or cron would, once the disk is well: do what the messages say, and be patient."""
    time = Time(1_001_000.0)
    for _ in range(4):  # what was never answered is looked for until it is known to have got lost
        time.sleep(400.0)
        if len(list(world.queue.iterdir())) < command.jobs or not command.jobs:
            again(world, command, time)
        world.tick(time)
    assert len(list(world.queue.iterdir())) == command.jobs


def again(world: World, command: Command, time: Time) -> None:
    with open_store(world.home) as store:
        if command.jobs and any(
            run.state is RunState.HELD for run in store.runs()
        ):  # the disk was full: a person's turn
            hold.release("tiny", actor="ada", store=store, clock=time)
            world.stage(store, time).resume()
            return
    try:
        command.do(world)
    except ClipctlError as error:
        if error.hint.endswith("clipctl db rebuild"):
            rebuild_database(world.home, roots=(), into=None, clock=SystemClock())


def equals_its_folders(world: World, into: Path) -> None:
    rebuild_database(world.home, roots=(), into=into, clock=SystemClock())
    here, again = tables(homes.database(world.home)), tables(into)
    for found in (here, again):
        for row in found["attempts"].values():
            row["pulse"] = row["inode"] = None  # begins anew; and putting back makes other files
    into.unlink()
    assert again == here


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", COMMANDS)
def test_an_error_at_any_change_loses_nothing_and_starts_nothing_twice(
    world: World, tmp_path: Path, name: str, soak: Callable[[int, int], int]
) -> None:
    command = COMMANDS[name]
    command.before(world)
    world.keep()
    step, errors = soak(11, 1), ERRORS[: soak(1, len(ERRORS))]
    for error in errors:
        nth, hit = soak(3, 1), True
        while hit:
            world.put_back()
            ended = with_fault(lambda: command.do(world), world.home, nth=nth, error=error)
            place = f"{errno.errorcode[error]} at change {nth}"
            assert ended.code != BUG, place
            is_sound(world, tmp_path)
            goes_on(world, command)
            is_sound(world, tmp_path)
            equals_its_folders(world, tmp_path / "again.db")
            nth, hit = nth + step, ended.hit
        assert nth > 15, "there was something to fail"
