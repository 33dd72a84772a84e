"""Where each thread of this rank stands, in its log, once nothing has moved for a while: who hangs, and in what."""

from __future__ import annotations

import faulthandler
import sys
import time

HUNG_AFTER = 300.0  # seconds: before NCCL gives up, and before the watchdog ends the job
RENEWED_EVERY = 10.0  # seconds: setting the alarm starts a thread, which not every step should pay for


class Stacks:
    """The alarm is another thread's, in C: it goes off whatever the others wait in. `close` it."""

    def __init__(self) -> None:
        self._renew_at = 0.0

    def moved(self) -> None:
        """A step was done."""
        now = time.monotonic()
        if now >= self._renew_at:
            faulthandler.dump_traceback_later(HUNG_AFTER, file=sys.__stderr__)
            self._renew_at = now + min(RENEWED_EVERY, HUNG_AFTER / 2)

    def rest(self) -> None:
        """No step is to be expected until the next one."""
        faulthandler.cancel_dump_traceback_later()
        self._renew_at = 0.0

    def close(self) -> None:
        self.rest()
