"""Where the database lies, who may reach it, and what SQLite's complaints mean to a person.

The rollback journal is used everywhere, not only on network file systems: write-ahead logging needs memory shared by
all processes (so one host), and its readers must create files, which `status` must not. Commits here are a few a
command, so there is nothing to gain from it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from clipctl.errors import ClipctlError, Damaged, Refused, Unavailable
from clipctl.layout import RunFolder
from clipctl.store import migrate

DATABASE = "clipctl.db"
FOLDERS = "folders.jsonl"  # of every run, one a line
BUSY_SECONDS = 30.0  # writers queue; each holds the lock for milliseconds

_NO_ANSWER = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_AUTH,
    }
)


def database(home: Path) -> Path:
    return home / DATABASE


def check(home: Path) -> None:
    """Refused where anybody could swap the database for another: what it says is submitted as jobs."""
    try:
        mode = home.stat().st_mode
    except OSError as error:
        raise Unavailable(f"{home}: {error.strerror}", hint=f"ls -ld {home}") from error
    if not stat.S_ISDIR(mode):
        raise Refused(f"{home} is not a directory", hint="export CLIPCTL_HOME=~/.clipctl")
    if mode & stat.S_IWOTH:
        raise Refused(f"{home} is writable for everybody", hint=f"chmod 700 {home}")


def prepare(home: Path) -> Path:
    """`home` (0700) and an empty database (0600) where they are missing; the database's path."""
    path = database(home)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        check(home)
        if not path.exists():
            refuse_emptiness(home)
        # SQLite would create it by the umask; its journal takes over the mode of the database
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}", hint=f"ls -ld {home} {path}") from error
    return path


def connect(path: Path) -> sqlite3.Connection:
    """For writing, in autocommit mode; as it is, whatever its schema."""
    # isolation_level None: every transaction here is one that we begin
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


# --- which runs there are, whatever becomes of the database ------------------------------------------


def note_folder(home: Path, folder: Path, known: tuple[Path, ...]) -> None:
    """Before a run's first commit: its folder is found again without the database. `known`: those of older runs."""
    path = home / FOLDERS
    listed = set(known_folders(home))
    text = "".join(f"{json.dumps(str(each))}\n" for each in (*known, folder) if each not in listed)
    if not text:
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, b"\n" * bool(listed) + text.encode())  # after a torn line too
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}; nothing was decided", hint=f"ls -ld {home}") from error


def known_folders(home: Path) -> tuple[Path, ...]:
    """Of all runs that this home ever had, the oldest first."""
    try:
        lines = (home / FOLDERS).read_text("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise Unavailable(f"{home / FOLDERS}: {error.strerror}", hint=f"ls -l {home / FOLDERS}") from error
    return tuple(dict.fromkeys(Path(folder) for line in lines if (folder := _text(line))))


def _text(line: str) -> str | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def refuse_emptiness(home: Path) -> None:
    """Damaged: there is no database, or nothing in it, and there were runs."""
    if any(RunFolder(folder).decisions.exists() for folder in known_folders(home)):
        raise damaged(database(home), f"it is gone or empty, and {home / FOLDERS} names runs")


# --- what SQLite's complaints mean -------------------------------------------------------------------


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into ours. Bugs stay bugs."""
    try:
        yield
    except sqlite3.Error as error:
        known = _explain(error, path)
        if known is None:
            raise
        raise known from error
    except UnicodeDecodeError as error:  # its complaint quotes the damage
        raise damaged(path, str(error)) from error


@contextmanager
def decoded(path: Path) -> Iterator[None]:
    """Around reads alone: stored text that cannot be what was written (no JSON, no known word, no such column)."""
    try:
        yield
    except ValueError as error:
        raise damaged(path, str(error)) from error
    except (LookupError, TypeError) as error:  # ours, unless the file is not what we wrote
        if is_sound(path):
            raise
        raise damaged(path, str(error)) from error


def _explain(error: sqlite3.Error, path: Path) -> ClipctlError | None:
    code = getattr(error, "sqlite_errorcode", None)
    if "malformed JSON" in str(error):  # text of ours that a query looks into
        return damaged(path, str(error))
    if code is None:  # raised by the sqlite3 module itself, for text that is no UTF-8
        return damaged(path, str(error)) if "decode" in str(error) else None
    if code & 0xFF in _NO_ANSWER:
        return Unavailable(f"{path}: {error}", hint=f"ls -l {path} && df -h {path.parent}  # then try again")
    if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT):
        return damaged(path, str(error))
    return damaged(path, str(error)) if not is_sound(path) else None


def is_sound(path: Path) -> bool:
    """Whether SQLite finds nothing wrong with the file's structure, and the schema is ours. Reads all of it."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            ok = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            return ok and migrate.has_our_schema(connection)
    except sqlite3.Error:
        return False


def damaged(path: Path, what: str) -> Damaged:
    return Damaged(
        f"{path} is damaged: {' '.join(what.split())}. The run folders keep every intent, decision and event",
        hint="clipctl db rebuild",
    )
