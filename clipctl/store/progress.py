"""A run's losses: the newest stretch of its progress, event by event, and before that a few of all the others.

At most TAIL and OLDER events are read, however long the run is: each by its key.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from clipctl.series import TAIL, Point, Series, Settings, flat, points_of
from clipctl.store.views import parent_of
from trainer.contract import Event, EventKind, Parent

OLDER = 64  # a drift that takes longer than TAIL events is measured against these
_FOLDER = re.compile(r"attempts/(\d+)/")

Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class _Part:
    """An attempt on the line, as far as it counts."""

    attempt: int
    settings: Settings
    newest: int  # seq of its newest event; once its tail was read, of the newest before that
    limit: int | None  # samples seen; None: all of it


def series(connection: sqlite3.Connection, run: str, attempt: int, fresh: Iterable[Event] = ()) -> Series:
    """Of an attempt and, before its parent, of those that led to it. `fresh`: events that are not stored yet."""
    line = list(_line(connection, run, attempt))
    pace = line[0].settings
    lines = [flat(event) for event in fresh]
    points: list[Point] = []
    for index, part in enumerate(line):
        if len(points) >= TAIL:
            break
        lines = _tail(connection, run, part, TAIL - len(points)) + lines
        points = [*points_of(lines, part.attempt, part.settings, newest=pace), *points]
        line[index] = replace(part, newest=_first(lines, part.newest) - 1)
        lines = []
    older = [point for part in reversed(line) for point in _sparse(connection, run, part, _gap(line))]
    return Series(points=(*older, *points[-TAIL:]), warmup=pace.warmup)


def _line(connection: sqlite3.Connection, run: str, attempt: int) -> Iterator[_Part]:
    """Newest first, from parent to parent, as far as they are this run's."""
    number: int | None = attempt
    limit: int | None = None
    while number is not None:
        row = connection.execute(
            """SELECT parent, seq,
               ranks * json_extract(train, '$.batch_size') * coalesce(json_extract(train, '$.accum_freq'), 1) AS batch,
               json_extract(train, '$.precision') AS precision, json_extract(train, '$.optim.warmup') AS warmup
               FROM attempts WHERE run = ? AND number = ?""",
            (run, number),
        ).fetchone()
        if row is None:
            return
        settings = Settings(batch=row["batch"] or 1, warmup=row["warmup"] or 0, precision=str(row["precision"]))
        yield _Part(number, settings, row["seq"], limit)
        number, limit = _before(parent_of(row["parent"]), number, limit)


def _before(parent: Parent | None, child: int, limit: int | None) -> tuple[int | None, int | None]:
    """The attempt that wrote the parent, and up to where it counts."""
    found = _FOLDER.match(parent.path) if parent else None
    if parent is None or found is None or int(found[1]) >= child:  # numbers only fall: no circle
        return None, None
    return int(found[1]), parent.samples_seen if limit is None else min(limit, parent.samples_seen)


def _tail(connection: sqlite3.Connection, run: str, part: _Part, wanted: int) -> Lines:
    rows = connection.execute(
        """SELECT line FROM events WHERE run = ? AND attempt = ? AND kind IN (?, ?)
           AND (? IS NULL OR json_extract(line, '$.samples_seen') <= ?) ORDER BY seq DESC LIMIT ?""",
        (run, part.attempt, EventKind.PROGRESS, EventKind.STARTED, part.limit, part.limit, wanted + 1),
    ).fetchall()
    return _parsed(rows[::-1])


def _parsed(rows: Iterable[sqlite3.Row]) -> Lines:
    """All in one: a call of the parser for each line costs more than its parsing."""
    found: Lines = json.loads(f"[{','.join(row['line'] for row in rows)}]")
    return found


def _first(lines: Lines, otherwise: int) -> int:
    return int(lines[0]["seq"]) if lines else otherwise + 1


def _gap(line: Iterable[_Part]) -> int:
    """Between the events that are taken of all those before the tail."""
    return max(1, -(-sum(part.newest for part in line) // OLDER))


def _sparse(connection: sqlite3.Connection, run: str, part: _Part, gap: int) -> Iterator[Point]:
    wanted = range(part.newest, 0, -gap)
    rows = connection.execute(
        f"""SELECT line FROM events WHERE run = ? AND attempt = ? AND seq IN ({", ".join("?" * len(wanted))})
            AND kind = ? ORDER BY seq""",
        (run, part.attempt, *wanted, EventKind.PROGRESS),
    ).fetchall()
    lines = (json.loads(row["line"]) for row in rows)
    for point in points_of(lines, part.attempt, part.settings, sparse=True):
        if part.limit is None or point.samples_seen <= part.limit:
            yield point
