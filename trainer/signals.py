"""A request to stop, remembered until all ranks have agreed on it at a step border."""

from __future__ import annotations

import signal
from types import FrameType

# USR1: Slurm's warning before wall time. TERM: preemption's grace, scancel. INT: a person's Ctrl-C.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """`signal` is 0 until one comes; the last one wins."""

    def __init__(self) -> None:
        self.signal = 0

    def listen(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def ignore(self) -> None:
        """Once the last word is said, to the very end: a signal during tear-down would change the exit code."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
