"""Where each thread of this rank stands, once nothing has moved for a while: who hangs, and in what."""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from pathlib import Path
from typing import IO

from trainer.flight import FOLDER

HUNG_AFTER = 300.0  # seconds: before NCCL gives up, and before the watchdog ends the job
RENEWED_EVERY = 10.0  # seconds: setting the alarm starts a thread, which not every step should pay for


class Stacks:
    """The alarm is another thread's, in C: it goes off whatever the others wait in. `close` it."""

    def __init__(self, attempt_folder: Path, rank: int) -> None:
        """In the attempt's folder; in the rank's log where the disk has no room for a file."""
        self._path = attempt_folder / FOLDER / f"stacks_{rank}.txt"
        self._file = _opened(self._path)
        self._renew_at = 0.0

    def moved(self) -> None:
        """A step was done."""
        now = time.monotonic()
        if now >= self._renew_at:
            faulthandler.dump_traceback_later(HUNG_AFTER, file=self._file or sys.__stderr__)
            self._renew_at = now + min(RENEWED_EVERY, HUNG_AFTER / 2)

    def rest(self) -> None:
        """No step is to be expected until the next one."""
        faulthandler.cancel_dump_traceback_later()
        self._renew_at = 0.0

    def close(self) -> None:
        self.rest()
        if self._file:
            with self._file:
                empty = not os.fstat(self._file.fileno()).st_size
            if empty:
                self._path.unlink(missing_ok=True)


def _opened(path: Path) -> IO[bytes] | None:
    try:
        path.parent.mkdir(exist_ok=True)
        return open(path, "ab", buffering=0)
    except OSError:
        return None
