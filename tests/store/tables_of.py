"""A database as plain values, to compare one with another."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

KEYS = {
    "runs": ("name",),
    "attempts": ("run", "number"),
    "jobs": ("nonce",),
    "checkpoints": ("run", "path"),
    "events": ("run", "attempt", "seq"),
    "incidents": ("run", "attempt", "kind"),
    "standbys": ("nonce",),
    "evaluations": ("nonce",),
    "scores": ("nonce", "dataset", "metric"),
    "decisions": ("id",),
}


def tables(path: Path) -> dict[str, dict[tuple[Any, ...], dict[str, Any]]]:
    """Every table but that of the migrations, which says when: rows by key, in the order in which they were told."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert names == {*KEYS, "migrations"}
        found = {table: [dict(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in KEYS}
    return {table: {tuple(row[name] for name in KEYS[table]): row for row in rows} for table, rows in found.items()}
