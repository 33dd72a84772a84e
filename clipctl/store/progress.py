"""A run's losses: the newest stretch of its progress, and before that what its checkpoints say.

At most TAIL events and OLDER checkpoints are read, however long the run is.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clipctl.series import TAIL, Point, Series, Settings, flat, points_of
from clipctl.store.views import parent_of
from trainer.contract import Event, EventKind, Parent

OLDER = 64  # checkpoints of whole epochs: a drift that takes longer than TAIL events is measured against them
_FOLDER = re.compile(r"attempts/(\d+)/")


@dataclass(frozen=True)
class _Part:
    """An attempt on the line, as far as it counts."""

    attempt: int
    settings: Settings
    limit: int | None  # samples seen; None: all of it


def series(connection: sqlite3.Connection, run: str, attempt: int, fresh: Iterable[Event] = ()) -> Series:
    """Of an attempt and, before its parent, of those that led to it. `fresh`: events that are not stored yet."""
    line = list(_line(connection, run, attempt))
    unread = [flat(event) for event in fresh]
    newest = line[0].settings
    points: list[Point] = []
    for part in line:
        if len(points) >= TAIL:
            break
        lines = _tail(connection, run, part, TAIL - len(points)) + (unread if part.attempt == attempt else [])
        points = [*points_of(lines, part.attempt, part.settings, newest), *points]
    points = points[-TAIL:]
    older: list[Point] = []
    for part in line:
        before = (older or points)[0].samples_seen if older or points else None
        older = [*_checkpoints(connection, run, part, before, OLDER - len(older)), *older]
    return Series(points=(*older, *points), warmup=newest.warmup)


def _line(connection: sqlite3.Connection, run: str, attempt: int) -> Iterator[_Part]:
    """Newest first, from parent to parent, as far as they are this run's."""
    number: int | None = attempt
    limit: int | None = None
    while number is not None:
        row = connection.execute(
            """SELECT parent, ranks * json_extract(train, '$.batch_size') AS batch, json_extract(train, '$.precision')
               AS precision, json_extract(train, '$.optim.warmup') AS warmup FROM attempts
               WHERE run = ? AND number = ?""",
            (run, number),
        ).fetchone()
        if row is None:
            return
        settings = Settings(batch=row["batch"] or 1, warmup=row["warmup"] or 0, precision=str(row["precision"]))
        yield _Part(number, settings, limit)
        number, limit = _before(parent_of(row["parent"]), number, limit)


def _before(parent: Parent | None, child: int, limit: int | None) -> tuple[int | None, int | None]:
    """The attempt that wrote the parent, and up to where it counts."""
    found = _FOLDER.match(parent.path) if parent else None
    if parent is None or found is None or int(found[1]) >= child:  # numbers only fall: no circle
        return None, None
    return int(found[1]), parent.samples_seen if limit is None else min(limit, parent.samples_seen)


def _tail(connection: sqlite3.Connection, run: str, part: _Part, wanted: int) -> list[Mapping[str, Any]]:
    rows = connection.execute(
        """SELECT line FROM events WHERE run = ? AND attempt = ? AND kind IN (?, ?)
           AND (? IS NULL OR json_extract(line, '$.samples_seen') <= ?) ORDER BY seq DESC LIMIT ?""",
        (run, part.attempt, EventKind.PROGRESS, EventKind.STARTED, part.limit, part.limit, wanted + 1),
    ).fetchall()
    return [json.loads(row["line"]) for row in reversed(rows)]


def _checkpoints(
    connection: sqlite3.Connection, run: str, part: _Part, before: int | None, wanted: int
) -> Iterator[Point]:
    """Of whole epochs, those that were pruned too; each knows the loss of one step, the mean over all ranks."""
    rows = connection.execute(
        """SELECT json_extract(manifest, '$.epochs_done') AS epochs, json_extract(manifest, '$.step') AS step,
           json_extract(manifest, '$.loss') AS loss, samples_seen FROM checkpoints
           WHERE run = ? AND attempt = ? AND json_extract(manifest, '$.step_in_epoch') = 0 AND epochs > 0
           AND typeof(loss) = 'real' AND samples_seen <= coalesce(?, samples_seen) AND samples_seen < coalesce(?, 1e30)
           ORDER BY samples_seen DESC LIMIT ?""",
        (run, part.attempt, part.limit, before, max(0, wanted)),
    ).fetchall()
    for row in reversed(rows):
        steps = row["step"] // row["epochs"]
        yield Point(
            attempt=part.attempt,
            seq=0,
            epoch=row["epochs"],
            step=row["step"],
            step_in_epoch=steps,
            steps_per_epoch=steps,
            samples_seen=row["samples_seen"],
            batch=part.settings.batch,
            since_start=float("inf"),
            loss=row["loss"],
        )
