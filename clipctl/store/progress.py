"""The newest stretch of a run's progress, as numbers. At most TAIL events are read, however long the run is."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable
from typing import Any

from clipctl.series import TAIL, Point, Series, Settings, flat, points_of
from clipctl.store.views import parent_of
from trainer.contract import Event, EventKind, Parent

_FOLDER = re.compile(r"attempts/(\d+)/")


def series(connection: sqlite3.Connection, run: str, attempt: int, fresh: Iterable[Event] = ()) -> Series:
    """Of an attempt and, before its parent, of those that led to it. `fresh`: events that are not stored yet."""
    newest = _settings(connection, run, attempt)
    unread = [flat(event) for event in fresh]
    points: list[Point] = []
    number: int | None = attempt
    limit: int | None = None  # samples seen, up to which an earlier attempt's events count
    while number is not None and len(points) < TAIL:
        settings = _settings(connection, run, number)
        lines = _tail(connection, run, number, limit, TAIL - len(points)) + (unread if number == attempt else [])
        points = [*points_of(lines, number, settings, newest), *points]
        number, limit = _before(_parent(connection, run, number), number, limit)
    return Series(points=tuple(points[-TAIL:]), warmup=newest.warmup)


def _tail(connection: sqlite3.Connection, run: str, attempt: int, limit: int | None, wanted: int) -> list[Any]:
    rows = connection.execute(
        """SELECT line FROM events WHERE run = ? AND attempt = ? AND kind IN (?, ?)
           AND (? IS NULL OR json_extract(line, '$.samples_seen') <= ?) ORDER BY seq DESC LIMIT ?""",
        (run, attempt, EventKind.PROGRESS, EventKind.STARTED, limit, limit, wanted + 1),
    ).fetchall()
    return [json.loads(row["line"]) for row in reversed(rows)]


def _settings(connection: sqlite3.Connection, run: str, attempt: int) -> Settings:
    row = connection.execute(
        """SELECT ranks * json_extract(train, '$.batch_size'), json_extract(train, '$.optim.warmup'),
           json_extract(train, '$.precision') FROM attempts WHERE run = ? AND number = ?""",
        (run, attempt),
    ).fetchone()
    batch, warmup, precision = row or (None, None, None)
    return Settings(batch=int(batch or 1), warmup=int(warmup or 0), precision=str(precision))


def _parent(connection: sqlite3.Connection, run: str, attempt: int) -> Parent | None:
    row = connection.execute("SELECT parent FROM attempts WHERE run = ? AND number = ?", (run, attempt)).fetchone()
    return parent_of(row["parent"]) if row else None


def _before(parent: Parent | None, child: int, limit: int | None) -> tuple[int | None, int | None]:
    """The attempt that wrote the parent, and up to where it counts. None where the parent is not one of this run's."""
    found = _FOLDER.match(parent.path) if parent else None
    if parent is None or found is None or int(found[1]) >= child:  # numbers only fall: no circle
        return None, None
    return int(found[1]), parent.samples_seen if limit is None else min(limit, parent.samples_seen)
