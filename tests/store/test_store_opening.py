"""The database as a file: who may reach it, how its schema comes about, and what is said when it is broken."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import SQLModel, create_engine

from clipctl.errors import Damaged, Refused, Unavailable
from clipctl.layout import RunFolder
from clipctl.ops import read
from clipctl.store import home as homes, ledger, migrate, open_store, views
from clipctl.store.migrate import Migration
from clipctl.store.writer import Store
from tests.store import stories


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- home -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_reaches_the_store_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with open_store(tmp_path / "home") as store:
            stories.new_run(tmp_path / "home", "digits")
            assert (mode(tmp_path / "home"), mode(store.path)) == (0o700, 0o600)
            seen = set()
            with store._writing():
                seen = {(path.name, mode(path)) for path in (tmp_path / "home").glob("clipctl.db*")}
            stories.launched(store, tmp_path / "home")
    finally:
        os.umask(before)
    assert ("clipctl.db", 0o600) in seen
    assert {permission for _, permission in seen} == {0o600}
    assert mode(tmp_path / "home" / "runs" / "digits" / "decisions.jsonl") == 0o600


def test_a_home_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with open_store(home):
        pass
    home.chmod(0o777)
    with pytest.raises(Refused, match="writable for everybody") as writing:
        open_store(home)
    with pytest.raises(Refused, match="writable for everybody"):
        read.status(home, now=1.0)
    assert writing.value.hint == f"chmod 700 {home}"


def test_a_home_that_is_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(Unavailable):
        open_store(tmp_path / "home")


def test_no_file_is_left_beside_the_database(store: Store, home: Path) -> None:
    stories.launched(store, home)
    read.status(home, now=1.0)
    assert sorted(path.name for path in home.iterdir()) == ["clipctl.db", "folders.jsonl", "runs"]


def test_a_database_in_write_ahead_mode_is_taken_back(home: Path) -> None:
    with open_store(home) as store:
        stories.launched(store, home)
    changed = sqlite3.connect(homes.database(home))
    changed.execute("PRAGMA journal_mode = WAL")
    changed.close()
    with open_store(home) as store:
        assert store._connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
        assert store._connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        assert store._connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1


# --- migrations -------------------------------------------------------------------------------------


def _schema(connection: sqlite3.Connection) -> dict[str, Any]:
    """Columns (name, affinity, not null, place in the key), foreign keys and indexes of every table."""
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {table: _table(connection, table) for table in tables if table != "migrations"}


def _table(connection: sqlite3.Connection, table: str) -> dict[str, Any]:
    columns = connection.execute(f"PRAGMA table_xinfo({table})").fetchall()
    foreign = connection.execute(f"PRAGMA foreign_key_list({table})").fetchall()
    indexes = connection.execute(f"PRAGMA index_list({table})").fetchall()
    kinds = {"VARCHAR": "TEXT", "FLOAT": "REAL"}
    rowid = connection.execute("SELECT wr FROM pragma_table_list WHERE name = ?", (table,)).fetchone()
    return {
        "without rowid": rowid[0],
        "columns": {(name, kinds.get(kind, kind), required, key) for _, name, kind, required, _, key, _ in columns},
        "foreign keys": {tuple(row[1:5]) for row in foreign},
        "indexes": {_index(connection, name, unique, partial) for _, name, unique, _, partial in indexes},
    }


def _index(connection: sqlite3.Connection, name: str, unique: int, partial: int) -> tuple[Any, ...]:
    columns = tuple(row[2] for row in connection.execute(f"PRAGMA index_info({name})"))
    sql = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone() or (None,)
    condition = re.sub(r"\s+", " ", (sql[0] or "").partition("WHERE")[2]).strip()
    return ("" if name.startswith("sqlite_") else name, columns, unique, partial, condition)


def test_the_migrated_schema_is_that_of_the_classes(store: Store, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'classes.db'}")
    SQLModel.metadata.create_all(engine)
    engine.dispose()
    classes = sqlite3.connect(tmp_path / "classes.db")
    expected, found = _schema(classes), _schema(store._connection)
    classes.close()
    assert found.keys() == expected.keys()
    for table in expected:
        assert found[table] == expected[table], table


def test_the_newest_migration_is_the_number_that_status_knows() -> None:
    numbers = [step.number for step in migrate.migrations()]
    assert numbers == list(range(1, migrate.NEWEST + 1))


GOOD = Migration(1, "good", "CREATE TABLE one (x);\nCREATE TABLE two (x);\nINSERT INTO one VALUES (1);")


def test_a_migration_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    bad = Migration(2, "bad", "CREATE TABLE three (x);\nINSERT INTO one VALUES (2);\nINSERT INTO nowhere VALUES (1);")
    with pytest.raises(sqlite3.OperationalError):
        migrate.migrate(connection, tmp_path / "x.db", steps=(GOOD, bad))
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    assert tables == {"one", "two", "migrations"}
    assert connection.execute("SELECT x FROM one").fetchall() == [(1,)]
    assert migrate.schema_of(connection) == 1
    connection.close()


def test_two_that_migrate_at_once_do_it_once(tmp_path: Path) -> None:
    path, failures = tmp_path / "x.db", []

    def work() -> None:
        connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        try:
            migrate.migrate(connection, path, steps=(GOOD,))
        except sqlite3.Error as error:
            failures.append(error)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connection = sqlite3.connect(path)
    assert (failures, connection.execute("SELECT x FROM one").fetchall()) == ([], [(1,)])
    connection.close()


def test_a_newer_database_is_refused_by_writers_and_readers(home: Path) -> None:
    with open_store(home) as store:
        store._connection.execute("INSERT INTO migrations VALUES (99, 'later', 1.0)")
    for attempt in (lambda: open_store(home), lambda: read.status(home, now=1.0)):
        with pytest.raises(Refused, match="schema 99, written by a newer clipctl") as refusal:
            attempt()
        assert refusal.value.hint == "pip install --upgrade clipctl"


def test_a_database_whose_creation_was_cut_short_has_no_runs(home: Path) -> None:
    homes.prepare(home)
    assert read.status(home, now=1.0).runs == ()
    assert read.run_names(home) == ()


def test_an_older_schema_is_named_with_the_command_that_brings_it_up_to_date(home: Path) -> None:
    path = homes.prepare(home)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate.migrate(connection, path, steps=migrate.migrations()[:1])
    with pytest.raises(Unavailable, match=f"has schema 1, this clipctl reads {migrate.NEWEST}") as outdated:
        read.status(home, now=1.0)
    subprocess.run(shlex.split(outdated.value.hint), check=True, capture_output=True)
    assert read.status(home, now=1.0).runs == ()


def test_foreign_keys_hold(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store._connection.execute("INSERT INTO decisions VALUES ('x', 'no such run', NULL, 1, 'a', 'hold', 'b', '{}')")


def test_a_full_disk_is_said_so_and_nothing_is_half_done(store: Store, home: Path) -> None:
    stories.launched(store, home)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable, match="full"):
        store.hold("digits", actor="ada", basis="x" * 20_000, time=1.0)
    assert store.run("digits").hold_reason is None
    assert [entry["kind"] for entry in ledger.entries(RunFolder.of(home, "digits"))] == ["intent", "answer"]


# --- damage -----------------------------------------------------------------------------------------


@pytest.fixture
def filled(home: Path) -> Path:
    with open_store(home) as store:
        for number in range(6):
            stories.launched(store, home, f"run-{number}", nonce=f"n{number}")
    return homes.database(home)


def _use(home: Path) -> None:
    """Everything a command may do: read all, write some."""
    read.status(home, now=1.0, everything=True)
    with open_store(home) as store:
        for run in store.runs():
            store.history(run.name)
            store.decisions(run.name)
        store.hold("run-3", actor="ada", basis="to see", time=2.0)
        assert store._connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def _zero(data: bytearray) -> bytes:
    return bytes(len(data))


def _page(number: int, content: bytes) -> Callable[[bytearray], bytes]:
    return lambda data: bytes(data[: 4096 * number]) + content + bytes(data[4096 * number + len(content) :])


STRUCTURED: dict[str, Callable[[bytearray], bytes]] = {
    "another file": lambda data: b"#!/bin/bash\necho hello\n" * 400,
    "zeros": _zero,
    "half": lambda data: bytes(data[: len(data) // 2]),
    "one page": lambda data: bytes(data[:4096]),
    "inside a page": lambda data: bytes(data[:6000]),
    "header": _page(0, b"SQLite format 9\0"),
    "schema page": _page(0, bytes(data_byte % 251 for data_byte in range(4096))),
    "second page": _page(1, b"\xff" * 4096),
    "third page": _page(2, b"\x00" * 4096),
    "json": lambda data: bytes(data).replace(b'{"schema": 1, "spec"', b'{"schema": 1, "spXc"'),
    "words": lambda data: bytes(data).replace(b"queued", b"quXued"),
    "no text": lambda data: bytes(data).replace(b"queued", b"qu\xff\xffed"),
    "column names": lambda data: bytes(data).replace(b"hold_reason", b"hold_reasXn"),
}


@pytest.mark.parametrize("what", STRUCTURED)
def test_a_damaged_database_is_called_damaged(filled: Path, home: Path, what: str) -> None:
    filled.write_bytes(STRUCTURED[what](bytearray(filled.read_bytes())))
    with pytest.raises(Damaged) as damage:
        _use(home)
    assert str(filled) in damage.value.message
    assert damage.value.hint == "clipctl db rebuild"


def test_random_damage_never_ends_in_a_traceback(filled: Path, home: Path, soak: Callable[[int, int], int]) -> None:
    whole = filled.read_bytes()
    draw = random.Random(7)
    found = 0
    for _ in range(soak(20, 200)):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 8, 200])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        filled.write_bytes(data)
        for journal in home.glob("clipctl.db-*"):
            journal.unlink()
        try:
            _use(home)
        except (Damaged, Unavailable, Refused):
            found += 1
        except AssertionError:
            continue  # only the checker saw it
    assert found


# --- locked, dead, read-only ------------------------------------------------------------------------


def _killed_in_its_commit(home: Path, to: Path) -> None:
    """A copy of `home` as a kill -9 leaves it: pages half written, the rollback journal beside them."""
    with open_store(home) as store:
        store._connection.execute("PRAGMA cache_size = 1")  # writes pages before the commit
        store._connection.execute("BEGIN IMMEDIATE")
        store._connection.execute("UPDATE runs SET state = 'held', hold_reason = hex(randomblob(3000))")
        shutil.copytree(home, to)
        store._connection.rollback()


def test_status_after_a_writer_was_killed_in_its_commit(filled: Path, home: Path, tmp_path: Path) -> None:
    _killed_in_its_commit(home, tmp_path / "dead")
    assert (tmp_path / "dead" / "clipctl.db-journal").stat().st_size > 0
    shutil.copytree(tmp_path / "dead", tmp_path / "another")
    with views.reading(tmp_path / "another") as connection:
        assert connection is not None
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("UPDATE runs SET state = 'held'")
    runs = read.status(tmp_path / "dead", now=1.0).runs
    assert {str(run.state) for run in runs} == {"queued"}
    assert len(runs) == 6


def test_status_while_somebody_writes(filled: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = sqlite3.connect(filled, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE runs SET state = 'held'")
    assert {str(run.state) for run in read.status(home, now=1.0).runs} == {"queued"}
    writer.rollback()
    writer.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(homes, "BUSY_SECONDS", 0.1)
    with pytest.raises(Unavailable, match="locked") as locked:
        read.status(home, now=1.0)
    writer.close()
    assert locked.value.transient


def test_readers_cannot_write(filled: Path, home: Path) -> None:
    before = (filled.read_bytes(), filled.stat().st_mtime_ns)
    with views.reading(home) as connection:
        assert connection is not None
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("UPDATE runs SET state = 'held'")
    read.status(home, now=1.0, everything=True)
    read.resumable(home, now=1.0)
    assert (filled.read_bytes(), filled.stat().st_mtime_ns) == before
