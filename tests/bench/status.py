"""What a cold `clipctl status` costs with many runs stored: `python -m tests.bench.status`.

1,000 runs with 20 attempts each; three live, each with 1,000 event lines more than at the last look. Measured in pairs
against `python -c "import typer"`, turn by turn, so that a busy machine slows both: the ratio is what counts.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from clipctl.domain import JobState, RunState
from clipctl.journal import LocalFiles, read_all
from clipctl.layout import RunFolder
from clipctl.store import open_store
from tests.store import stories
from trainer.contract import NONCE_VARIABLE, dumps

RUNS, ATTEMPTS, EVENTS, LIVE, FRESH = 1000, 20, 10, 3, 1000
PAIRS = 21
TARGET = 3.0


def fill(home: Path) -> None:
    """All runs in one transaction, written past the store: what is measured is reading."""
    with open_store(home) as store:
        path = store.path
    with closing(sqlite3.connect(path)) as connection, connection:
        for number in range(RUNS):
            _add_run(connection, home, number)
    for number in range(RUNS - LIVE, RUNS):
        _make_live(home, f"run-{number:04}", f"live-{number}")


def _add_run(connection: sqlite3.Connection, home: Path, number: int) -> None:
    name = f"run-{number:04}"
    train, limits = dumps(stories.train()), '{"lost_after": 180.0}'
    folder = str(RunFolder.of(home, name).path)
    run = (name, f"{name}-id", folder, "local", stories.spec(name), 4, limits, float(number), RunState.STOPPED)
    connection.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(run))}, NULL, NULL, 'local')", run)
    for attempt in range(1, ATTEMPTS + 1):
        events = [stories.progress(seq, step=seq) for seq in range(1, EVENTS + 1)]
        connection.execute(
            """INSERT INTO attempts (run, number, settings_digest, train, patch, ranks, created_at, "offset", inode,
               seq, samples_seen, progress) VALUES (?, ?, 'x', ?, '{}', 2, 1.0, 0, 0, ?, 640, ?)""",
            (name, attempt, train, EVENTS, EVENTS),
        )
        connection.execute(
            """INSERT INTO jobs (nonce, run, attempt, submitted_at, answer, scheduler_id, state, raw, ended_at)
               VALUES (?, ?, ?, 1.0, 'accepted', '1', ?, '', 2.0)""",
            (f"{name}-{attempt}", name, attempt, JobState.FAILED),
        )
        rows = [(name, attempt, event.seq, event.kind, dumps(event)) for event in events]
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", rows)


def _make_live(home: Path, name: str, nonce: str) -> None:
    with open_store(home) as store:
        stories.new_run(home, name)
        attempt = store.intend(name, stories.intent(nonce)).attempt
        folder = stories.attempt_folder(home, name, attempt)
        stories.write_events(folder, stories.event(1, "started", step=0), stories.progress(2, step=1))
        for facts, cursor in read_all(LocalFiles(), folder, store.newest_job(name).cursor):
            store.ingest(name, attempt, facts, cursor, time=1.0)
    stories.write_events(folder, *(stories.progress(seq, step=seq - 1) for seq in range(3, 3 + FRESH)))
    stories.beat(folder, step=1 + FRESH)


@contextmanager
def living_jobs() -> Iterator[None]:
    """Processes that the local backend takes for the three jobs."""
    nonces = [f"live-{number}" for number in range(RUNS - LIVE, RUNS)]
    sleepers = [subprocess.Popen(["sleep", "3600"], env={**os.environ, NONCE_VARIABLE: nonce}) for nonce in nonces]
    try:
        yield
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


def seconds(command: Sequence[str], environment: dict[str, str]) -> tuple[float, str]:
    start = time.perf_counter()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, ended.stdout


def measure(home: Path) -> list[tuple[float, float]]:
    environment = {**os.environ, "CLIPCTL_HOME": str(home), "COLUMNS": "120"}
    status = [str(Path(sys.executable).with_name("clipctl")), "status"]
    typer = [sys.executable, "-c", "import typer"]
    shown = seconds(status, environment)[1]
    newest = (1 + FRESH - 1) % stories.STEPS + 1
    if shown.count(f" {newest}/{stories.STEPS} ") < LIVE:
        sys.exit(f"status does not tell the newest step of each live run:\n{shown}")
    return [(seconds(status, environment)[0], seconds(typer, environment)[0]) for _ in range(PAIRS)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        fill(home)
        with living_jobs():
            pairs = measure(home)
    ratio = statistics.median(status / typer for status, typer in pairs)
    status, typer = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"cold clipctl status, {RUNS} runs, {RUNS * ATTEMPTS} attempts, {LIVE} live with {FRESH} new events each:")
    print(f"  {ratio:.2f} x `import typer` (at most {TARGET}); medians {status:.3f} s and {typer:.3f} s, {PAIRS} pairs")
    sys.exit(ratio > TARGET)


if __name__ == "__main__":
    main()
