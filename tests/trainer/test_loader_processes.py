"""Worker processes live exactly as long as their loader: no signal to the job ends them, and none is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.shard_files import write_shards

TIMEOUT = 120.0  # seconds, for a machine that is busy

RANK = """
import multiprocessing, os, signal, sys, time
from tests.trainer.shard_files import loading, spec, texts
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
RANK = os.getpid()
def note(*_):
    if os.getpid() != RANK:  # a worker that heard it
        os._exit(3)
for number in SIGNALS:
    signal.signal(number, note)  # a rank goes on to the step's border
def open_for_writing(fifo):
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it yet
            time.sleep(0.01)
print("ready", flush=True)
with loading(spec({pattern!r}, samples=64, batch_size=4), workers=2) as loader:
    for epoch in (1, 2):
        for _ in loader.batches(epoch, 0):
            pass
        print("workers", *(child.pid for child in multiprocessing.active_children()), flush=True)
    {then}
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the interpreter's own end takes the handlers away
print("done", flush=True)
"""


def start_rank(pattern: str, then: str = "") -> subprocess.Popen[str]:
    """In a session, and so a process group, of its own."""
    script = RANK.format(pattern=pattern, then=then)
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def read_line(rank: subprocess.Popen[str], word: str) -> list[int]:
    assert rank.stdout is not None and rank.stderr is not None
    line = rank.stdout.readline().split()
    assert line[:1] == [word], (line, rank.stderr.read())
    return [int(pid) for pid in line[1:]]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def pattern(tmp_path: Path) -> str:
    return write_shards(tmp_path, shards=4, pairs=8)


def test_signals_to_the_whole_process_group_leave_the_workers_at_work(pattern: str) -> None:
    rank = start_rank(pattern)
    read_line(rank, "ready")
    deadline = time.monotonic() + TIMEOUT
    sent = 0
    while rank.poll() is None:  # from before the workers are forked until after they are gone
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            os.killpg(rank.pid, number)
        sent += 1
        time.sleep(0.002)
        assert time.monotonic() < deadline
    output, errors = rank.communicate()
    assert sent > 10
    assert (rank.returncode, output.splitlines()[-1], errors) == (0, "done", "")


def test_workers_are_gone_when_the_loader_is_closed(pattern: str) -> None:
    rank = start_rank(pattern, "loader.close(); print('closed', flush=True); sys.stdin.read()")
    read_line(rank, "ready")
    read_line(rank, "workers")
    workers = read_line(rank, "workers")
    read_line(rank, "closed")
    assert len(workers) == 2
    assert not any(map(alive, workers))
    rank.kill()
    rank.communicate()


@pytest.mark.parametrize("then", ["raise RuntimeError", "os.kill(os.getpid(), 9)"], ids=["error", "kill -9"])
def test_workers_do_not_outlive_a_rank_that_fails(pattern: str, then: str) -> None:
    rank = start_rank(pattern, f"loader.close = lambda: None; {then}")
    read_line(rank, "ready")
    workers = read_line(rank, "workers")
    rank.communicate(timeout=TIMEOUT)
    assert rank.returncode != 0
    wait_until(lambda: not any(map(alive, workers)))


def test_a_worker_that_hangs_is_killed(pattern: str, tmp_path: Path) -> None:
    """A shard that never answers, as on a file system that hangs."""
    os.mkfifo(tmp_path / "hangs.tar")
    rank = start_rank(
        pattern,
        "stuck = loading(spec({!r}, samples=8, batch_size=4), workers=1).__enter__(); "
        "stuck._start(1, 0); "
        "write_end = open_for_writing({!r}); "
        "print('workers', stuck._processes[0].pid, flush=True); stuck.close()".format(
            *[str(tmp_path / "hangs.tar")] * 2
        ),
    )
    read_line(rank, "ready")
    read_line(rank, "workers")
    read_line(rank, "workers")
    (worker,) = read_line(rank, "workers")
    read_line(rank, "done")
    assert not alive(worker)
    rank.communicate(timeout=TIMEOUT)
