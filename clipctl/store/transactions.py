"""Transactions on the database, and the line in the run's decisions.jsonl that goes with each decision."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine, event, literal_column
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool
from sqlmodel import Session, create_engine, select

from clipctl.errors import ClipctlError, Unavailable
from clipctl.layout import RunFolder
from clipctl.store import effects, home as homes, ledger, migrate
from clipctl.store.ledger import EntryKind
from clipctl.store.tables import DecisionRow, RunRow
from trainer import contract


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of decisions.jsonl and a row of decisions. `actor`: a user's name, "watchdog", or who told us."""

    kind: EntryKind
    actor: str
    basis: str
    time: float
    attempt: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def line(self, run: str) -> dict[str, Any]:
        """With an id, in plain JSON types."""
        own = {"id": secrets.token_hex(8), "run": run} | {name: getattr(self, name) for name in _OWN}
        plain: dict[str, Any] = contract.to_jsonable({**own, **self.facts, "schema": contract.SCHEMA})
        return plain


_OWN = ("attempt", "time", "actor", "kind", "basis")


def engine_over(connection: sqlite3.Connection) -> Engine:
    """For sessions whose transactions hold the only write lock from their first statement."""
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    event.listen(engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


class Transactions:
    """One open database, and who may write to it when."""

    def __init__(self, home: Path) -> None:
        self.home, self.path = home, homes.prepare(home)
        self._inode = self.path.stat().st_ino  # before it is opened: rather a file too old than one too new
        with homes.explained(self.path):
            self._connection = homes.connect(self.path)
            try:
                if migrate.schema_of(self._connection) == 0:
                    homes.refuse_emptiness(home)
                migrate.migrate(self._connection, self.path)
            except BaseException:
                self._connection.close()
                raise
        self._engine = engine_over(self._connection)
        self._in_doubt: tuple[RunFolder, Mapping[str, Any]] | None = None  # a line that is not committed yet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._engine.dispose()
        self._connection.close()

    # --- transactions ---------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One moment of the database; no write lock."""
        with homes.explained(self.path), homes.decoded(self.path):
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.rollback()

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with homes.explained(self.path):
            try:
                with Session(self._engine, expire_on_commit=False) as session, session.begin():
                    self._refuse_another_file()
                    yield session
            except (ClipctlError, DBAPIError, sqlite3.Error, OSError) as error:
                self._take_back_what_failed()
                if isinstance(error, DBAPIError) and isinstance(error.orig, sqlite3.Error):
                    raise error.orig from error
                raise
            finally:
                self._in_doubt = None

    def _refuse_another_file(self) -> None:
        """While this store is open the database may be made again, or taken away: this one is not it any more."""
        try:
            same = self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            same = False
        if not same:
            raise Unavailable(f"{self.path} was replaced; nothing was decided", hint="try again")

    def _record(self, session: Session, run: RunRow, entry: Entry) -> None:
        """The last step of a transaction: rows first, so that what the database refuses leaves no line."""
        folder, line = RunFolder(Path(run.folder)), entry.line(run.name)
        self._take_back_what_was_not_committed(session, run, folder)
        effects.take_in(session, run, line)
        self._in_doubt = folder, line
        ledger.append(folder, line)

    def _take_back_what_was_not_committed(self, session: Session, run: RunRow, folder: RunFolder) -> None:
        """Whoever was killed between line and commit left one line, the last, and had told no scheduler of it.

        Damaged: any other difference. The database is an older copy, or lost bytes, or another one was at work.
        """
        newest = select(DecisionRow.id).where(DecisionRow.run == run.name).order_by(literal_column("rowid").desc())
        if session.exec(newest).first() == ledger.newest(folder):
            return
        lines = ledger.standing(folder)
        known, told = set(session.exec(newest)), [line["id"] for line in lines]
        if known == set(told):
            return
        left = known == set(told[:-1]) and not ledger.was_submitted(folder, lines[-1])
        sound = self._connection.execute("PRAGMA integrity_check(decisions)").fetchone()[0] == "ok"
        if not (left and sound):
            raise homes.damaged(self.path, f"it does not have what {folder.decisions} has")
        ledger.take_back(folder, lines[-1])

    def _take_back_what_failed(self) -> None:
        """At once if the disk lets us; else before the next line is written."""
        if self._in_doubt is None:
            return
        folder, line = self._in_doubt
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                known = self._connection.execute("SELECT 1 FROM decisions WHERE id = ?", (line["id"],)).fetchone()
                if known is None and ledger.newest(folder) == line["id"]:
                    ledger.take_back(folder, line)
            finally:
                self._connection.rollback()
        except (Unavailable, sqlite3.Error):
            return
