"""The database as an index of run folders: is it what they say, and make it again where it is not."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import Session

from clipctl.errors import Damaged, NotFound, Refused, Unavailable
from clipctl.journal import LocalFiles
from clipctl.layout import RunFolder
from clipctl.ops.clock import Clock
from clipctl.store import comparison, home as homes, ledger, migrate, rebuild, views
from clipctl.store.transactions import engine_over
from trainer.contract import SCHEMA, sync_folder

_FILES = LocalFiles()
_COUNTED = (
    "runs",
    "attempts",
    "jobs",
    "standbys",
    "events",
    "checkpoints",
    "incidents",
    "decisions",
    "evaluations",
    "scores",
)


@dataclass(frozen=True, kw_only=True)
class Checked:
    path: str
    problems: tuple[str, ...]  # a line each; none: the database says what the run folders say
    runs: int
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    path: str
    aside: str | None  # where the database that was there lies now
    counts: dict[str, int]  # rows by table
    left_out: tuple[str, ...]  # folders that do not say enough, a line each
    schema: int = SCHEMA


# --- check ------------------------------------------------------------------------------------------


def check(home: Path) -> Checked:
    """Structure, schema, and every row against its run's folder. Nothing is changed, nobody has to wait."""
    path = homes.database(home)
    try:
        with views.reading(home) as connection:
            if connection is None:
                raise NotFound(f"{path}: there is no database, and no run", hint="clipctl launch demo --follow")
            with closing(sqlite3.connect(":memory:")) as copy:
                connection.backup(copy)
                copy.row_factory = sqlite3.Row
                return Checked(path=str(path), problems=tuple(_problems(copy, path)), runs=views.count(copy))
    except Damaged as error:
        return Checked(path=str(path), problems=(error.message,), runs=0)


def _problems(copy: sqlite3.Connection, path: Path) -> Iterator[str]:
    broken = [" ".join(row[0].split()) for row in copy.execute("PRAGMA integrity_check").fetchall() if row[0] != "ok"]
    if broken:
        yield from broken
        return
    if not migrate.has_our_schema(copy):
        yield "its tables and views are not those that migrations make"
        return
    known = frozenset(row[0] for row in copy.execute("SELECT id FROM decisions"))
    for run in views.runs(copy):
        yield from _problems_of(copy, run.name, RunFolder(run.folder), known, path)


def _problems_of(
    copy: sqlite3.Connection, run: str, folder: RunFolder, known: frozenset[str], path: Path
) -> Iterator[str]:
    lines = ledger.standing(folder)
    ahead = [line for line in lines if line.get("id") not in known]
    taken = [line for line in lines if line.get("id") in known]
    with closing(homes.connect(Path(":memory:"))) as fresh:
        migrate.migrate(fresh, path)
        try:
            with Session(engine_over(fresh)) as session, session.begin():
                rebuild.take_in_run(session, folder, taken, _FILES)
        except Damaged as error:
            yield f"run {run}: {error.message}"
            return
        yield from comparison.decided(copy, fresh, run)
        yield from comparison.read(copy, fresh, run)
    yield from _unknown(run, folder, ahead, path)


def _unknown(run: str, folder: RunFolder, ahead: Sequence[dict[str, object]], path: Path) -> Iterator[str]:
    """Lines that came while we looked are no problem; nor is one that a killed command left, and that had no effect."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as now:
        question = "SELECT 1 FROM decisions WHERE id = ?"
        lost = [line for line in ahead if now.execute(question, (line.get("id"),)).fetchone() is None]
    if len(lost) > 1 or any(ledger.was_submitted(folder, line) for line in lost):
        yield f"run {run}: {len(lost)} lines of {folder.decisions} are not in the database"


# --- rebuild ----------------------------------------------------------------------------------------


def rebuild_database(home: Path, *, roots: Sequence[Path], into: Path | None, clock: Clock) -> Rebuilt:
    """From the folders that database and home name and those below `roots`. The database that is there is moved aside.

    NotFound: no run folder. Refused: `into` exists. Unavailable: a folder cannot be read now, or somebody writes.
    """
    target = into or homes.database(home)
    if into is not None and into.exists():
        raise Refused(f"{into} exists", hint="choose another file")
    folders = tuple(dict.fromkeys([*_named(home), *_below(roots)]))
    if not folders:
        raise NotFound("no run folder is known", hint="clipctl db rebuild --root DIR (the folder that holds runs/)")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(home) if into is None else _nobody_minds(), _scratch(target) as new:
        left_out, counts, there = _make(new, folders)
        if not counts["runs"]:
            raise NotFound("no run folder says enough to make a database of", hint="\n".join(left_out))
        for folder in there if into is None else ():
            homes.note_folder(home, folder, ())
        aside = _put_in_place(new, target, clock)
    return Rebuilt(path=str(target), aside=str(aside) if aside else None, counts=counts, left_out=left_out)


def _named(home: Path) -> tuple[Path, ...]:
    """Those that the home's list names, and the database as far as it can be read."""
    try:
        with views.reading(home) as connection:
            stored = views.folders(connection) if connection is not None else ()
    except (Damaged, Unavailable):
        stored = ()
    return (*homes.known_folders(home), *stored)


def _below(roots: Iterable[Path]) -> Iterator[Path]:
    """This user's: a root may be shared."""
    for root in roots:
        for path in sorted((root / "runs").glob("*/decisions.jsonl")):
            if path.stat().st_uid == os.getuid():
                yield path.parent.absolute()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """No other process writes meanwhile, as far as the file can be locked at all."""
    path = homes.database(home)
    if not path.exists():
        yield
        return
    try:
        connection = sqlite3.connect(path, timeout=homes.BUSY_SECONDS, isolation_level=None)
    except sqlite3.Error:
        yield
        return
    with closing(connection):
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Unavailable(f"{path}: {error}", hint="try again") from error
        yield


@contextmanager
def _nobody_minds() -> Iterator[None]:
    yield


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A file beside `target`, so that a rename puts it there."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder / target.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(new: Path, folders: Sequence[Path]) -> tuple[tuple[str, ...], dict[str, int], tuple[Path, ...]]:
    os.close(os.open(new, os.O_RDWR | os.O_CREAT, 0o600))
    with closing(homes.connect(new)) as connection:
        migrate.migrate(connection, new)
        with Session(engine_over(connection)) as session, session.begin():
            left_out = rebuild.take_in_all(session, folders, _FILES)
        counts = {table: int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in _COUNTED}
        return left_out, counts, views.folders(connection)


def _put_in_place(new: Path, target: Path, clock: Clock) -> Path | None:
    """The old one keeps its place until the new one has it, and stays under another name."""
    aside = None
    if target.exists():
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(clock.now()))
        aside = next(path for path in _names(target, stamp) if not path.exists())
        journal = target.with_name(f"{target.name}-journal")
        if journal.exists():  # of a database that could not be opened: it must not be taken for the new one's
            os.rename(journal, aside.with_name(f"{aside.name}-journal"))
        os.link(target, aside)
    os.replace(new, target)
    sync_folder(target.parent)
    return aside


def _names(target: Path, stamp: str) -> Iterator[Path]:
    yield target.with_name(f"{target.name}.aside-{stamp}")
    number = 2
    while True:
        yield target.with_name(f"{target.name}.aside-{stamp}-{number}")
        number += 1
