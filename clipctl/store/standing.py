"""What the database says of jobs that stand by; as `views`, through the standard library alone."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from clipctl.domain import JobState
from clipctl.store import views
from clipctl.store.records import Answer, StandbyRecord

_OPEN = """SELECT standbys.*, runs.run_id, runs.folder,
               (SELECT time FROM decisions WHERE run = standbys.run AND kind = 'standby_seen'
                AND json_extract(facts, '$.nonce') = nonce ORDER BY time DESC, decisions.rowid DESC LIMIT 1) AS seen_at
           FROM standbys JOIN runs ON runs.name = standbys.run WHERE ended_at IS NULL"""


def everywhere(connection: sqlite3.Connection) -> tuple[StandbyRecord, ...]:
    """Of all runs, the oldest first."""
    return tuple(map(_record, connection.execute(f"{_OPEN} ORDER BY submitted_at").fetchall()))


def of(connection: sqlite3.Connection, run: str) -> StandbyRecord | None:
    return _one(connection.execute(f"{_OPEN} AND run = ?", (run,)))


def job(connection: sqlite3.Connection, nonce: str) -> StandbyRecord | None:
    return _one(connection.execute(f"{_OPEN} AND nonce = ?", (nonce,)))


def next_attempt(connection: sqlite3.Connection, run: str) -> int:
    row = connection.execute(
        """SELECT max(number) FROM (SELECT number FROM attempts WHERE run = ?
           UNION SELECT attempt FROM standbys WHERE run = ?)""",
        (run, run),
    ).fetchone()
    return int(row[0] or 0) + 1


def intent(connection: sqlite3.Connection, nonce: str) -> dict[str, Any]:
    """What its attempt will be, as JSON types."""
    row = connection.execute("SELECT intent FROM standbys WHERE nonce = ?", (nonce,)).fetchone()
    return {} if row is None else dict(json.loads(row["intent"]))


def wanting(connection: sqlite3.Connection) -> frozenset[str]:
    """Runs with a job that may live, whose settings ask for one: as launched, and as resumes have changed them."""
    rows = connection.execute(
        """SELECT name, spec, patch FROM jobs JOIN runs ON name = jobs.run
           JOIN attempts ON attempts.run = name AND number = jobs.attempt
           WHERE ended_at IS NULL AND (spec LIKE '%"standby": true%' OR patch LIKE '%"recovery.standby": true%')"""
    ).fetchall()
    return frozenset(row["name"] for row in rows if _wanted(row["spec"], row["patch"]))


def _wanted(spec: str, patch: str) -> bool:
    launched = json.loads(spec).get("spec", {}).get("recovery", {})
    return bool(json.loads(patch).get("recovery.standby", launched.get("standby", False)))


def gave_up(connection: sqlite3.Connection, run: str, after: int) -> bool:
    """Withdrawn ones do not count, nor those of which nobody knows whether they ever were in the queue."""
    row = connection.execute(
        """SELECT 1 FROM standbys WHERE run = ? AND after = ? AND ended_at IS NOT NULL
           AND withdrawn_at IS NULL AND answer IN (?, ?)""",
        (run, after, Answer.ACCEPTED, Answer.REJECTED),
    ).fetchone()
    return row is not None


def _one(found: sqlite3.Cursor) -> StandbyRecord | None:
    row = found.fetchone()
    return None if row is None else _record(row)


def _record(row: sqlite3.Row) -> StandbyRecord:
    return StandbyRecord(
        identity=views.identity_of(row),
        folder=Path(row["folder"]),
        after=row["after"],
        answer=None if row["answer"] is None else Answer(row["answer"]),
        scheduler_id=row["scheduler_id"],
        state=JobState(row["state"]),
        raw=row["raw"],
        missing_since=row["missing_since"],
        withdrawn_at=row["withdrawn_at"],
        ended_at=row["ended_at"],
        running_since=row["seen_at"] if row["state"] == JobState.RUNNING and row["missing_since"] is None else None,
    )
