"""The watchdog at work: its command, again and again, and after each time the invariants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.slurm.desk import PATIENCE, Said, SlurmDesk
from tests.story.counted import Calls, Counted
from tests.story.invariants import Invariants
from tests.story.living import Living
from tests.story.run_files import RunFiles


@dataclass
class Watch:
    """A desk that nobody but the watchdog acts at."""

    desk: SlurmDesk
    living: Living
    counted: Counted
    invariants: Invariants
    said: list[str] = field(default_factory=list)  # what the ticks printed, each new line once
    pace: float = 1.0  # seconds between two ticks
    calls: Calls = field(default_factory=Calls)  # of the newest tick
    front: Path | None = None  # a folder of programs that come before Slurm's own

    def tick(self) -> Said:
        """One `clipctl watchdog run`, and what must be true after it."""
        path = self.counted.path if self.front is None else f"{self.front}:{self.counted.path}"
        said = self.desk.clipctl("watchdog", "run", PATH=path)
        assert "Traceback" not in said.err, said.err
        self.said += [line for line in said.out.splitlines() if line not in self.said[-1:]]
        self.calls = self.counted.take()
        self.invariants.check(self.calls, stops=said.out.count(": stop: "))
        return said

    def until(self, condition: Callable[[], object], patience: float = PATIENCE) -> None:
        """Ticks until `condition` holds after one."""
        deadline = time.monotonic() + patience
        while not (self.tick() and condition()):
            assert time.monotonic() < deadline, f"not within {patience:g} s\n" + "\n".join(self.said[-20:])
            time.sleep(self.pace)

    def run(self, name: str) -> RunFiles:
        return RunFiles(self.desk.folder(name))

    def completes(self, name: str, patience: float = PATIENCE) -> RunFiles:
        """To its end, and its job's."""
        run = self.run(name)
        self.until(lambda: run.completed and run.settled, patience)
        return run

    def attempts(self, name: str, count: int) -> RunFiles:
        """Until so many were intended."""
        run = self.run(name)
        self.until(lambda: len(run.intents()) >= count)
        return run

    def held(self, name: str) -> str:
        """Until a person is asked for; why."""
        run = self.run(name)
        self.until(lambda: run.entries("hold"))
        return str(run.entries("hold")[-1]["basis"])

    def stays(self, name: str, ticks: int = 3) -> RunFiles:
        """Nothing is decided for it in so many ticks."""
        run = self.run(name)
        before = len(run.intents())
        for _ in range(ticks):
            self.tick()
            time.sleep(self.pace)
        assert len(run.intents()) == before, run.intents()[before:]
        return run


@contextmanager
def watching(desk: SlurmDesk) -> Iterator[Watch]:
    counted = Counted(desk.home.parent / "counted")
    counted.install()
    with Living(desk.root) as living:
        yield Watch(desk, living, counted, Invariants(desk.cluster, desk.home, desk.root, living))
    assert not living.violations, living.violations
    assert (said := desk.clipctl("db", "check")).code == 0, said  # I7
    assert living.looks, "nobody looked"


@contextmanager
def by_itself(watch: Watch) -> Iterator[Ticking]:
    """Ticks beside whatever the test does, until it is over; what a tick found wrong is raised by `check`."""
    ticking = Ticking(watch)
    ticking.start()
    try:
        yield ticking
    finally:
        ticking.ended.set()
        ticking.join()
    ticking.check()


class Ticking(threading.Thread):
    def __init__(self, watch: Watch) -> None:
        super().__init__(name="watchdog")
        self.watch = watch
        self.ended = threading.Event()
        self.trouble: BaseException | None = None
        self.ticks = 0

    def run(self) -> None:
        while not self.ended.is_set() and self.trouble is None:
            try:
                self.watch.tick()
            except BaseException as error:  # noqa: BLE001 - it is raised again, in the thread that asks
                self.trouble = error
            self.ticks += 1
            self.ended.wait(self.watch.pace)

    def check(self) -> None:
        if self.trouble is not None:
            raise self.trouble

    def until(self, condition: Callable[[], object], patience: float, what: str) -> None:
        deadline = time.monotonic() + patience
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {patience:g} s\n" + "\n".join(self.watch.said[-20:]))
            time.sleep(0.2)
