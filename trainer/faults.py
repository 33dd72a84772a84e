"""Rehearsed failures (`train.faults`): the one hook by which the loop lets them loose.

`overflow` and `plateau` change the arithmetic from their place on, in every attempt that gets there or starts
behind it: a cure must be a cure. The others strike once a run, as hardware does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.contract import Fault, FaultKind
from trainer.position import Position

if TYPE_CHECKING:
    from trainer.loop import Trainee

ARITHMETIC = frozenset({FaultKind.OVERFLOW, FaultKind.PLATEAU})


class RehearsedCrash(RuntimeError):
    """`train.faults` asked for it."""


class Faults:
    """`markers`: a folder of the run; a file in it says that a once-only fault has struck."""

    def __init__(self, faults: Sequence[Fault], rank: int, markers: Path) -> None:
        self._waiting = list(faults)
        self._rank = rank
        self._markers = markers
        self._slow = 0.0  # seconds a step

    def let_loose(self, at: Position, trainee: Trainee) -> list[FaultKind]:
        """Before the step that follows `at`. Returns what was let loose just now, on this rank."""
        if not self._waiting and not self._slow:
            return []
        due = [fault for fault in self._waiting if (fault.at_epoch, fault.at_step) <= (at.epoch, at.step_in_epoch + 1)]
        self._waiting = [fault for fault in self._waiting if fault not in due]
        struck = [fault.kind for fault in due if self._strike(fault, trainee)]
        if self._slow:
            time.sleep(self._slow)
        return struck

    def _strike(self, fault: Fault, trainee: Trainee) -> bool:
        if fault.kind in ARITHMETIC:
            trainee.rehearse(fault.kind)
            return True
        if fault.rank != self._rank or not self._first_time(fault):
            return False
        match fault.kind:
            case FaultKind.CRASH:
                raise RehearsedCrash(f"rehearsed crash at epoch {fault.at_epoch}, step {fault.at_step}")
            case FaultKind.HANG:
                while True:  # a rank that is alive and does nothing, not even on SIGTERM
                    time.sleep(3600)
            case FaultKind.SLOW_RANK:
                self._slow = fault.seconds
        return True

    def _first_time(self, fault: Fault) -> bool:
        self._markers.mkdir(parents=True, exist_ok=True)
        try:
            (self._markers / f"{fault.kind}-{fault.at_epoch}-{fault.at_step}-{fault.rank}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
