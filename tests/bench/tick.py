"""What a tick costs with many runs active: `python -m tests.bench.tick`.

1,000 active runs with 20 attempts and 50 events each, a million events in all; between two ticks each run logs a step
and beats. The scheduler's answer is made up, as squeue prints it: what is measured is clipctl, not Slurm.
"""

from __future__ import annotations

import multiprocessing
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from clipctl.backends.slurm import SlurmBackend
from clipctl.backends.slurm_codec import QUEUE_FIELDS
from clipctl.backends.transport import Completed
from clipctl.domain import JobState, Limits, RunState
from clipctl.journal import LocalFiles
from clipctl.layout import AttemptFolder, RunFolder
from clipctl.ops.clock import SystemClock
from clipctl.ops.tick import Site, watch
from clipctl.spec import load_cluster
from clipctl.store import open_store
from clipctl.store.lease import Lease, take
from tests.store import stories
from trainer.contract import Event, dumps

RUNS, ATTEMPTS, EVENTS = 1000, 20, 50
TICKS = 20
SECONDS, MEGABYTES, COMMANDS = 2.0, 150.0, 3
UID = 1000


@dataclass
class Squeue:
    """Answers as a controller on which all of `jobs` (name, comment) run."""

    jobs: Sequence[tuple[str, str]]
    asked: list[str] = field(default_factory=list)

    def run(self, argv: Sequence[str], *, timeout: float, stdin: bytes = b"") -> Completed:
        command = next(word for word in argv if word in ("squeue", "sacct", "scontrol", "scancel", "sbatch"))
        self.asked.append(command)
        mark = argv[-1].partition(":")[2].partition(",")[0].lstrip("0123456789")
        rows = [[name.upper() for name in QUEUE_FIELDS]] + [self._row(number) for number in range(len(self.jobs))]
        return Completed(code=0, out="".join("".join(f"{cell}{mark}" for cell in row) + "\n" for row in rows))

    def _row(self, number: int) -> list[str]:
        name, comment = self.jobs[number]
        known = {
            "jobid": str(number + 1), "userid": str(UID), "state": "RUNNING", "reason": "None",
            "submittime": "1000", "starttime": "1001", "endtime": "9000000000", "restartcnt": "0", "exit_code": "0",
            "derivedec": "0", "numnodes": "96", "partition": "booster", "nodelist": "jwb[0001-0096]",
            "name": name, "comment": comment,
        }  # fmt: skip
        return [known.get(field, "N/A") for field in QUEUE_FIELDS]


def fill(home: Path, runs: int) -> None:
    """All in one transaction, written past the store: what is measured is the tick."""
    with open_store(home) as store:
        path = store.path
    with closing(sqlite3.connect(path)) as connection, connection:
        for number in range(runs):
            _add_run(connection, home, number)


def _add_run(connection: sqlite3.Connection, home: Path, number: int) -> None:
    name, train = f"run-{number:04}", dumps(stories.train())
    folder = RunFolder.of(home, name)
    connection.execute(
        """INSERT INTO runs (name, run_id, folder, cluster, scheduler, spec, epochs, limits, created_at, state)
           VALUES (?, ?, ?, 'bench', 'slurm', ?, 4, '{}', ?, ?)""",
        (name, f"{name}-id", str(folder.path), stories.spec(name), float(number), RunState.RUNNING),
    )
    for attempt in range(1, ATTEMPTS + 1):
        events = [stories.event(1, "started", step=0)]
        events += [stories.progress(seq, step=seq - 1) for seq in range(2, EVENTS + 1)]
        newest = attempt == ATTEMPTS
        inode = _write_newest(folder.attempt(attempt), events) if newest else (0, 0)
        connection.execute(
            """INSERT INTO attempts (run, number, settings_digest, train, patch, ranks, created_at, "offset", inode,
               seq, samples_seen, started, progress) VALUES (?, ?, 'x', ?, '{}', 2, 1.0, ?, ?, ?, 640, 1, ?)""",
            (name, attempt, train, *inode, EVENTS, EVENTS),
        )
        ended, state = (None, JobState.RUNNING) if newest else (2.0, JobState.FAILED)
        connection.execute(
            """INSERT INTO jobs (nonce, run, attempt, submitted_at, answer, scheduler_id, state, raw, ended_at)
               VALUES (?, ?, ?, 1.0, 'accepted', ?, ?, 'RUNNING', ?)""",
            (_nonce(number, attempt), name, attempt, str(number + 1), state, ended),
        )
        rows = [(name, attempt, event.seq, event.kind, dumps(event)) for event in events]
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", rows)


def _write_newest(folder: AttemptFolder, events: Sequence[Event]) -> tuple[int, int]:
    """Offset and inode."""
    folder.path.mkdir(parents=True)
    stories.write_events(folder, *events)
    stories.beat(folder, step=EVENTS)
    found = LocalFiles().stat(folder.events)
    assert found is not None
    return found.size, found.inode


def _nonce(number: int, attempt: int) -> str:
    return f"{number:04x}{attempt:04x}"


def measure(home: Path, runs: int) -> tuple[list[float], list[float], int, float]:
    """Of each tick the seconds of one core and those of the clock; most commands to the scheduler in one; megabytes."""
    jobs = [(f"clipctl-run-{n:04}-id", f"clipctl:run-{n:04}:{ATTEMPTS}:{_nonce(n, ATTEMPTS)}") for n in range(runs)]
    times, clock, commands = [], [], 0
    for number in range(1, TICKS + 1):
        squeue = Squeue(jobs)
        backend = SlurmBackend(Limits(), transport=squeue, uid=UID)
        site = Site(cluster=load_cluster("local"), backend=backend)
        lease = take(home)
        assert isinstance(lease, Lease)
        began, start = time.perf_counter(), time.process_time()
        report = watch(lease, lambda name, site=site: site, home=home, clock=SystemClock())
        times.append(time.process_time() - start)
        clock.append(time.perf_counter() - began)
        commands = max(commands, len(squeue.asked))
        if report.lines or len(report.outcomes) != runs:
            sys.exit(f"a tick over runs that just go on said: {report.lines[:3]}")
        _go_on(home, runs, EVENTS + number)
    return times, clock, commands, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _go_on(home: Path, runs: int, step: int) -> None:
    for number in range(runs):
        folder = RunFolder.of(home, f"run-{number:04}").attempt(ATTEMPTS)
        stories.write_events(folder, stories.progress(step, step=step - 1))
        beat = folder.heartbeat.with_suffix(".new")
        beat.write_text(folder.heartbeat.read_text().replace(f": {step - 1},", f": {step},"))
        beat.replace(folder.heartbeat)


def apart(runs: int) -> tuple[list[float], list[float], int, float]:
    """In a process of its own, whose memory is the tick's."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        fill(home, runs)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(measure, (home, runs))


def main() -> None:
    few, *_ = apart(RUNS // 4)
    times, clock, commands, megabytes = apart(RUNS)
    p95, waited = (statistics.quantiles(each, n=20)[-1] for each in (times, clock))
    growth = statistics.median(times) / statistics.median(few)
    print(f"a tick, {RUNS} active runs, {RUNS * ATTEMPTS} attempts, {RUNS * ATTEMPTS * EVENTS} events, {TICKS} times:")
    print(
        f"  p95 {p95:.2f} s of one core (at most {SECONDS:g}; by the clock {waited:.2f} s),"
        f" median {statistics.median(times):.2f} s"
    )
    print(f"  {growth:.1f} x the time of a quarter of the runs (linear: 4, and at most 6)")
    print(f"  {commands} commands to the scheduler (at most {COMMANDS}), {megabytes:.0f} MB (at most {MEGABYTES:g})")
    sys.exit(p95 > SECONDS or growth > 6 or commands > COMMANDS or megabytes > MEGABYTES)


if __name__ == "__main__":
    main()
