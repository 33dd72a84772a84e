"""The process of open_clip_train that a rank wraps: its output goes on to this rank's log.

It leads a process group, its data-loader workers in it: nothing of it is left when it is ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence

from trainer.open_clip_log import Raised, read_line
from trainer.signals import STOP_SIGNALS

TAIL = 60  # lines of output that are looked at for an error
DRAIN = 5.0  # seconds for output that is still in the pipe


class Child:
    """`close` it."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        """Started by the thread with which it shall die: the main one."""
        command = [sys.executable, "-P", "-m", "trainer.wrapper.child", str(os.getpid()), *arguments]
        self._process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        self._tail: deque[str] = deque(maxlen=TAIL)
        self.moved = 0  # bytes that it said
        self._pump = threading.Thread(target=self._hand_on, name="output", daemon=True)
        self._pump.start()

    def left_with(self) -> int | None:
        """Its status as subprocess has it, negative for a signal; None: it runs."""
        status = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if status is None:
            return None
        return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status

    def error(self, status: int) -> str:
        """In one line: how it ended, and the last exception that it told of."""
        self._pump.join(DRAIN)
        how = f"left with code {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"
        raised = next(filter(None, map(_raised, reversed(self._tail))), "")
        return f"open_clip_train {how}{': ' if raised else ''}{raised}"

    def close(self) -> None:
        """At once: it has nothing to save. Not reaped yet, it keeps the group's number from others."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._pump.join(DRAIN)
        if not self._pump.is_alive() and self._process.stdout:
            self._process.stdout.close()

    def _hand_on(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.moved += len(line)
            text = line.decode(errors="replace")
            self._tail.append(text.rstrip("\n"))
            sys.stdout.write(text)
            sys.stdout.flush()


def stop_signal(status: int) -> int:
    """The request to stop that ended it, as Slurm sends it to every process of a rank; 0: it was something else."""
    return -status if -status in STOP_SIGNALS else 0


def _raised(text: str) -> str:
    line = read_line(text)
    return line.fact.text if line is not None and isinstance(line.fact, Raised) else ""
