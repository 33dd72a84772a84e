"""Seconds of a stretch of a device's work, learnt without waiting for the device."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """`with stopwatch:` around the work; `seconds`: of the newest stretch that is known to have ended, at first 0.

    On a GPU that is not the one just enclosed but, where the host reads one step behind, one or two before it.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._started = 0.0
        self._running: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.seconds = 0.0

    def __enter__(self) -> None:
        if not self._on_gpu:
            self._started = time.perf_counter()
            return
        while self._running and self._running[0][1].query():
            begin, end = self._running.pop(0)
            self.seconds = begin.elapsed_time(end) / 1000
        self._running.append((_event(), _event()))
        self._running[-1][0].record()

    def __exit__(self, *_: object) -> None:
        if self._on_gpu:
            self._running[-1][1].record()
        else:
            self.seconds = time.perf_counter() - self._started


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)
