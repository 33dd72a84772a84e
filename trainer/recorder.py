"""Rank 0's pen: events, heartbeat and TensorBoard, written by a thread so that training never waits for a disk."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainer.charts import Charts
from trainer.contract import (
    EVENTS_FILE,
    HEARTBEAT_FILE,
    TENSORBOARD_FOLDER,
    Event,
    EventKind,
    Heartbeat,
    Phase,
    dumps,
    loads,
    write_atomic,
)
from trainer.position import Position

HEARTBEAT_SECONDS = 1.0


class Recorder(Protocol):
    last: Position | None  # the furthest of any event or heartbeat: where a crash happened, as far as is known

    def event(self, kind: EventKind, at: Position, **facts: Any) -> None: ...
    def beat(self, phase: Phase, at: Position, loss: float | None = None, speed: float | None = None) -> None: ...
    def scalars(self, values: Mapping[str, float], x: int) -> None: ...
    def close(self) -> None: ...


class Silent:
    """Every rank but 0."""

    last: Position | None = None

    def event(self, kind: EventKind, at: Position, **facts: Any) -> None: ...
    def beat(self, phase: Phase, at: Position, loss: float | None = None, speed: float | None = None) -> None: ...
    def scalars(self, values: Mapping[str, float], x: int) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class _Scalars:
    values: Mapping[str, float]
    x: int


class _Tick:
    """Nothing came for a while: time for a heartbeat."""


class FileRecorder:
    """`close` returns when everything is on disk, and raises OSError if that cannot be.

    `open_charts` is called with the folder of the curves, once there is something to draw; None: nothing is drawn.
    """

    def __init__(self, attempt_folder: Path, open_charts: Callable[[Path], Charts] | None = None) -> None:
        self._folder = attempt_folder
        self._open_charts = open_charts
        self._seq = _last_seq(attempt_folder / EVENTS_FILE)  # a site may start the same job again
        self._counter = 0
        self._heartbeat: Heartbeat | None = None
        self._numbering = threading.Lock()  # checkpoints are told by the thread that writes them
        self.last: Position | None = None
        self._queue: queue.SimpleQueue[Event | _Scalars | None] = queue.SimpleQueue()
        self._backlog: list[Event] = []
        self._charts: Charts | None = None
        self._thread = threading.Thread(target=self._write_until_closed, name="recorder", daemon=True)
        self._thread.start()

    def event(self, kind: EventKind, at: Position, **facts: Any) -> None:
        with self._numbering:
            self._seq += 1
            self._move_to(at)
            self._queue.put(
                Event(
                    seq=self._seq,
                    time=time.time(),
                    kind=kind,
                    epoch=at.epoch,
                    step=at.step,
                    samples_seen=at.samples_seen,
                    facts=facts,
                )
            )

    def beat(self, phase: Phase, at: Position, loss: float | None = None, speed: float | None = None) -> None:
        """Cheap: only the newest one of a second is written."""
        self._counter += 1
        self._move_to(at)
        self._heartbeat = Heartbeat(
            counter=self._counter,
            phase=phase,
            epoch=at.epoch,
            step=at.step,
            samples_seen=at.samples_seen,
            time=time.time(),
            loss=loss,
            samples_per_second=speed,
        )

    def scalars(self, values: Mapping[str, float], x: int) -> None:
        self._queue.put(_Scalars(values, x))

    def _move_to(self, at: Position) -> None:
        if self.last is None or at.samples_seen >= self.last.samples_seen:
            self.last = at

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self._flush()
        self._write_heartbeat(None)
        if self._charts is not None:
            self._charts.close()

    # --- the thread ---

    def _write_until_closed(self) -> None:
        written: Heartbeat | None = None
        next_beat = 0.0
        while (item := self._next()) is not None:
            try:
                self._take(item)
                self._flush()
                if time.monotonic() >= next_beat:
                    written = self._write_heartbeat(written)
                    next_beat = time.monotonic() + HEARTBEAT_SECONDS
            except OSError as error:  # a full disk must not stop training; `close` tries again and says so
                print(f"cannot write to {self._folder}: {error}", file=sys.stderr, flush=True)

    def _next(self) -> Event | _Scalars | _Tick | None:
        try:
            return self._queue.get(timeout=HEARTBEAT_SECONDS)
        except queue.Empty:
            return _Tick()

    def _take(self, item: Event | _Scalars | _Tick) -> None:
        if isinstance(item, Event):
            self._backlog.append(item)
        elif isinstance(item, _Scalars):
            self._write_scalars(item)

    def _flush(self) -> None:
        if not self._backlog:
            return
        text = "".join(dumps(event) + "\n" for event in self._backlog)
        with open(self._folder / EVENTS_FILE, "a", encoding="utf-8") as file:
            _end_torn_line(self._folder / EVENTS_FILE, file)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self._backlog.clear()

    def _write_heartbeat(self, written: Heartbeat | None) -> Heartbeat | None:
        heartbeat = self._heartbeat
        if heartbeat is not None and heartbeat is not written:
            write_atomic(self._folder / HEARTBEAT_FILE, dumps(heartbeat))
        return heartbeat

    def _write_scalars(self, scalars: _Scalars) -> None:
        if self._open_charts is None:
            return
        self._charts = self._charts or self._open_charts(self._folder / TENSORBOARD_FOLDER)
        for name, value in scalars.values.items():
            self._charts.add_scalar(name, value, scalars.x)


def _end_torn_line(path: Path, file: Any) -> None:
    """A write that a full disk cut short must not swallow the line after it."""
    if os.path.getsize(path):
        with open(path, "rb") as reader:
            reader.seek(-1, os.SEEK_END)
            if reader.read(1) != b"\n":
                file.write("\n")


def _last_seq(path: Path) -> int:
    if not path.exists():
        return 0
    last = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            last = max(last, loads(Event, line).seq)
        except ValueError:
            continue
    return last
