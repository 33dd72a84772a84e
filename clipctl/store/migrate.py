"""Brings a database to the newest schema: numbered SQL files, each applied in one transaction with its record."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from clipctl.errors import Refused

NEWEST = 7  # the number of the last file in migrations/: known without looking, for `status`

_RECORDS = """CREATE TABLE IF NOT EXISTS migrations (
    number INTEGER NOT NULL PRIMARY KEY, name VARCHAR NOT NULL, applied_at FLOAT NOT NULL)"""


@dataclass(frozen=True)
class Migration:
    number: int
    name: str
    sql: str


def migrations() -> tuple[Migration, ...]:
    """All of them, in order."""
    files = sorted(Path(__file__).with_name("migrations").glob("*.sql"))
    return tuple(Migration(int(file.name[:4]), file.stem[5:], file.read_text(encoding="utf-8")) for file in files)


def schema_of(connection: sqlite3.Connection) -> int:
    """The number of the last migration that was applied; 0 for an empty database."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone()
    if known is None:
        return 0
    return int(connection.execute("SELECT coalesce(max(number), 0) FROM migrations").fetchone()[0])


def has_our_schema(connection: sqlite3.Connection) -> bool:
    """Whether tables, indexes and views read as the migrations wrote them."""
    fresh = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for step in migrations():
            _apply(fresh, step)
        return _definitions(fresh) == _definitions(connection)
    finally:
        fresh.close()


def _definitions(connection: sqlite3.Connection) -> set[tuple[object, ...]]:
    return set(map(tuple, connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()))


def refuse_newer(found: int, path: Path) -> None:
    if found > NEWEST:
        raise Refused(
            f"{path} has schema {found}, written by a newer clipctl; this one knows {NEWEST}",
            hint="pip install --upgrade clipctl",
        )


def migrate(connection: sqlite3.Connection, path: Path, *, steps: tuple[Migration, ...] | None = None) -> None:
    """`connection` in autocommit mode. Two processes may come at once: the second finds the work done."""
    found = schema_of(connection)
    refuse_newer(found, path)
    for step in migrations() if steps is None else steps:
        if step.number > found:
            _apply(connection, step)


def _apply(connection: sqlite3.Connection, step: Migration) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_RECORDS)
        if connection.execute("SELECT 1 FROM migrations WHERE number = ?", (step.number,)).fetchone() is None:
            for statement in _statements(step.sql):
                connection.execute(statement)
            record = (step.number, step.name, time.time())
            connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", record)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _statements(sql: str) -> list[str]:
    """One by one: sqlite3's executescript would commit in between."""
    statements, current = [], ""
    for line in sql.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    if current.strip():
        raise ValueError(f"a migration ends inside a statement: {current.strip():.80}")
    return statements
