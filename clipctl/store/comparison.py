"""Does the database say of a run what the run's folder says? The folder may know more: what nobody has read yet."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Set as AbstractSet
from contextlib import closing
from pathlib import Path

from sqlmodel import Session

from clipctl.domain import CheckpointState
from clipctl.layout import RunFolder
from clipctl.store import home as homes, ledger, migrate
from clipctl.store.rebuild import take_in_run
from clipctl.store.transactions import engine_over

Key = tuple[object, ...]
Row = dict[str, object]

# What decisions.jsonl and run.json alone say: table -> columns that name a row. All other columns must be equal.
_DECIDED: Mapping[str, tuple[str, ...]] = {
    "runs": ("name",),
    "attempts": ("number",),
    "jobs": ("nonce",),
    "standbys": ("nonce",),
    "incidents": ("attempt", "kind"),
    "evaluations": ("nonce",),
    "scores": ("nonce", "dataset", "metric"),
    "decisions": ("id",),
}
_LOOKER = frozenset({"pulse"})  # since when whoever looked saw nothing move: begins anew
# What the journals say, as far as they were read
_READ: Mapping[str, AbstractSet[str]] = {
    "runs": {"state"},
    "attempts": {"offset", "inode", "seq", "samples_seen", "started", "progress", "checkpoint", "diverged", "final"},
}


def trust(connection: sqlite3.Connection, run: str, folder: RunFolder, path: Path) -> None:
    """Before a job is submitted. Damaged: the database cannot be believed about this run."""
    if not migrate.has_our_schema(connection):
        raise homes.damaged(path, "its tables and views are not those that migrations make")
    for table in _DECIDED:
        found = connection.execute(f"PRAGMA integrity_check({table})").fetchone()[0]
        if found != "ok":
            raise homes.damaged(path, str(found))
    with closing(homes.connect(Path(":memory:"))) as fresh:
        migrate.migrate(fresh, path)
        with Session(engine_over(fresh)) as session, session.begin():
            take_in_run(session, folder, ledger.standing(folder), None)
        for line in decided(connection, fresh, run):
            raise homes.damaged(path, line)


def decided(connection: sqlite3.Connection, rebuilt: sqlite3.Connection, run: str) -> Iterator[str]:
    """Differences in what clipctl itself wrote down, a line each."""
    for table, names in _DECIDED.items():
        yield from _compare(connection, rebuilt, run, table, names)


def read(connection: sqlite3.Connection, rebuilt: sqlite3.Connection, run: str) -> Iterator[str]:
    """Differences in what nodes wrote, but for what was not read yet."""
    here, there = _rows(connection, run, "attempts", ("number",)), _rows(rebuilt, run, "attempts", ("number",))
    for key in here.keys() & there.keys():
        if here[key]["seq"] == there[key]["seq"]:
            yield from _differences(run, "attempts", key, here[key], there[key], {"inode", "offset", *_LOOKER})
    newest = max(here, default=None)
    if newest is not None and newest in there and here[newest]["seq"] == there[newest]["seq"]:
        yield from _compare(connection, rebuilt, run, "runs", ("name",), all_columns=True)
    yield from _events(connection, rebuilt, run)
    yield from _checkpoints(connection, rebuilt, run)


def _compare(
    connection: sqlite3.Connection,
    rebuilt: sqlite3.Connection,
    run: str,
    table: str,
    names: tuple[str, ...],
    all_columns: bool = False,
) -> Iterator[str]:
    here, there = _rows(connection, run, table, names), _rows(rebuilt, run, table, names)
    for key in here.keys() - there.keys():
        yield f"run {run}: {table} {_words(key)} is not in its folder"
    for key in there.keys() - here.keys():
        yield f"run {run}: {table} {_words(key)} is in its folder only"
    apart = _LOOKER if all_columns else _LOOKER | _READ.get(table, set())
    for key in here.keys() & there.keys():
        yield from _differences(run, table, key, here[key], there[key], apart)


def _differences(run: str, table: str, key: Key, here: Row, there: Row, apart: AbstractSet[str]) -> Iterator[str]:
    for column in here:
        if column not in apart and here[column] != there[column]:
            said, folder = _brief(here[column]), _brief(there[column])
            yield f"run {run}: {column} of {table} {_words(key)} is {said}, its folder says {folder}"


def _rows(connection: sqlite3.Connection, run: str, table: str, names: tuple[str, ...]) -> dict[Key, Row]:
    column = "name" if table == "runs" else "run"
    found = connection.execute(f"SELECT * FROM {table} WHERE {column} = ?", (run,)).fetchall()
    return {tuple(row[name] for name in names): dict(row) for row in found}


def _events(connection: sqlite3.Connection, rebuilt: sqlite3.Connection, run: str) -> Iterator[str]:
    question = "SELECT attempt, seq, kind, line FROM events WHERE run = ? AND attempt = ?"
    for (attempt,) in rebuilt.execute("SELECT number FROM attempts WHERE run = ?", (run,)).fetchall():
        there = {tuple(row) for row in rebuilt.execute(question, (run, attempt))}
        for row in connection.execute(question, (run, attempt)):
            if tuple(row) not in there:
                yield f"run {run}: event {row['seq']} of attempt {attempt} is not as its folder has it"


def _checkpoints(connection: sqlite3.Connection, rebuilt: sqlite3.Connection, run: str) -> Iterator[str]:
    here, there = _rows(connection, run, "checkpoints", ("path",)), _rows(rebuilt, run, "checkpoints", ("path",))
    for key, row in here.items():
        if key not in there:
            yield f"run {run}: checkpoints {_words(key)} is not in its folder"
            continue
        pruned = there[key]["state"] == CheckpointState.SUPERSEDED  # good or damaged: its file went since we looked
        yield from _differences(run, "checkpoints", key, row, there[key], {"state"} if pruned else set())


def _words(key: Key) -> str:
    return " ".join(map(str, key))


def _brief(value: object) -> str:
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
