"""Starts the ranks of a job on this machine and waits for them: `python -P -m trainer.spawn -n N ATTEMPT_FOLDER`.

What srun does on a cluster: forwards signals to every process of a rank, ends the rest when one rank fails
(--kill-on-bad-exit), returns the first bad code. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from trainer.claim import job_folder
from trainer.contract import LOGS_FOLDER, NONCE_VARIABLE
from trainer.origin import refuse_foreign
from trainer.signals import STOP_SIGNALS

WATCHED = (signal.SIGCHLD, *STOP_SIGNALS)
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(arguments: list[str]) -> int:
    refuse_foreign()
    parser = argparse.ArgumentParser(prog="trainer.spawn")
    parser.add_argument("attempt", type=Path)
    parser.add_argument("-n", "--ranks", type=int, required=True)
    parser.add_argument("--grace", type=float, default=30.0, help="seconds that ranks have when another one failed")
    parser.add_argument("--module", default="trainer", help="what a rank runs")
    options = parser.parse_args(arguments)
    # Blocked and waited for, not handled: no signal can fall between two lines of this program.
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    job = job_folder(options.attempt.resolve(), os.environ[NONCE_VARIABLE])
    rendezvous = job / f"rendezvous-{os.getpid()}-{time.time_ns()}"
    command = [sys.executable, "-P", "-m", options.module, str(options.attempt)]
    step = Step(options.grace)
    try:
        for rank in range(options.ranks):
            environ = rank_environment(os.environ, rank, options.ranks, rendezvous)
            step.start(rank, command, environ, job / LOGS_FOLDER)
        return step.wait()
    finally:
        step.send(signal.SIGKILL)
        rendezvous.unlink(missing_ok=True)


def rank_environment(base: Mapping[str, str], rank: int, ranks: int, rendezvous: Path) -> dict[str, str]:
    """What a rank sees; thread count and network interface stay as the user has set them."""
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    environ = {"OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo"} | dict(base)
    return environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "CLIPCTL_RENDEZVOUS": str(rendezvous),
        "PYTHONUNBUFFERED": "1",
    }


class Step:
    """The running ranks, each the leader of a process group of its own."""

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.code = 0  # the first bad one
        self.deadline: float | None = None
        self.measures = [signal.SIGTERM, signal.SIGKILL]  # for those that outlive the deadline

    def start(self, rank: int, command: list[str], environ: Mapping[str, str], logs: Path) -> None:
        logs.mkdir(exist_ok=True)
        with open(logs / f"rank_{rank}.log", "ab") as log:
            self.running[rank] = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=partial(_become_rank, os.getpid(), ctypes.CDLL(None)),  # safe: no threads here
            )

    def wait(self) -> int:
        while self.running:
            received = self._next_signal()
            if received is None:
                self._take_measure()
            elif received != signal.SIGCHLD:
                self.send(received)
            self._reap()
        return self.code

    def send(self, number: int) -> None:
        """To every process of every rank, as slurmstepd does."""
        for process in self.running.values():
            os.killpg(process.pid, number)

    def _next_signal(self) -> int | None:
        """None: the deadline came first."""
        if self.deadline is None:
            return signal.sigwaitinfo(WATCHED).si_signo
        received = signal.sigtimedwait(WATCHED, max(0.0, self.deadline - time.monotonic()))
        return received.si_signo if received else None

    def _reap(self) -> None:
        for rank, process in list(self.running.items()):
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            # Its data-loader workers must not outlive it. Not reaped yet, it keeps the group's number from others.
            os.killpg(process.pid, signal.SIGKILL)
            del self.running[rank]
            self._note(rank, process.wait())

    def _note(self, rank: int, status: int) -> None:
        if status == 0 or self.code:
            return
        self.code = status if status > 0 else 128 - status
        self.deadline = time.monotonic() + self.grace
        how = f"left with code {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"
        rest = f"; {len(self.running)} others have {self.grace:g} s" if self.running else ""
        print(f"rank {rank} {how}{rest}", file=sys.stderr, flush=True)

    def _take_measure(self) -> None:
        measure = self.measures.pop(0)
        self.deadline = time.monotonic() + self.grace if self.measures else None
        self.send(measure)


def _become_rank(parent: int, libc: ctypes.CDLL) -> None:
    """Between fork and exec: bound to the life of spawn, and with signals as a program expects to find them."""
    die_with(parent, libc)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # bash has background commands ignore it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)


def die_with(parent: int, libc: ctypes.CDLL | None = None) -> None:
    """Binds this process to the life of its parent, whose thread that started it must live as long."""
    (libc or ctypes.CDLL(None)).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we were bound
        os._exit(128 + signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
