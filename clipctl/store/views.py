"""What the database says, through the standard library's sqlite3 alone. Nothing here writes."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipctl.domain import (
    WATCHDOG,
    AttemptRecord,
    CheckpointRecord,
    CheckpointState,
    Cursor,
    History,
    Incident,
    JobIdentity,
    JobState,
    Limits,
    Pulse,
    RecoverySpec,
    RunState,
)
from clipctl.errors import Unavailable
from clipctl.journal import Landmarks, event_of
from clipctl.store import home as homes, migrate
from clipctl.store.records import Answer, DecisionRecord, JobRecord, RunRecord
from trainer import contract
from trainer.contract import CheckpointManifest, Event, Parent, Precision

Row = sqlite3.Row
SHOWN_ALWAYS = (RunState.QUEUED, RunState.RUNNING, RunState.UNKNOWN, RunState.HELD)


@contextmanager
def reading(home: Path) -> Iterator[sqlite3.Connection | None]:
    """One consistent look at the store of `home`; None while there is none. Works on a read-only file system too."""
    path = homes.database(home)
    if not path.exists():
        homes.refuse_emptiness(home)
        yield None
        return
    homes.check(home)
    with homes.explained(path), homes.decoded(path):
        connection = _open(path)
        try:
            yield connection if _has_views(connection, path) else None
        finally:
            connection.close()


def _open(path: Path) -> sqlite3.Connection:
    try:
        return _begin(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
    # A writer was killed in its commit: SQLite undoes that half before anybody may read, as every reader of it does
    return _begin(path, "mode=rw")


def _begin(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=homes.BUSY_SECONDS, isolation_level=None
    )
    try:
        connection.row_factory = Row
        connection.execute("PRAGMA query_only = ON")
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # takes the read lock: one moment for all
    except BaseException:
        connection.close()
        raise
    return connection


def _has_views(connection: sqlite3.Connection, path: Path) -> bool:
    found = migrate.schema_of(connection)
    migrate.refuse_newer(found, path)
    if 0 < found < migrate.NEWEST:
        raise Unavailable(
            f"{path} has schema {found}, this clipctl reads {migrate.NEWEST}",
            hint=f"{sys.executable} -P -m clipctl.store",
        )
    if found == 0:
        homes.refuse_emptiness(path.parent)
    return found > 0


# --- runs -------------------------------------------------------------------------------------------


def run(connection: sqlite3.Connection, name: str) -> RunRecord | None:
    row = connection.execute("SELECT * FROM run_looks WHERE name = ?", (name,)).fetchone()
    return None if row is None else _run(row)


def runs(connection: sqlite3.Connection, *, latest: int | None = None) -> tuple[RunRecord, ...]:
    """All, newest first; with `latest`, those that live or are held and that many of the newest."""
    if latest is None:
        rows = connection.execute("SELECT * FROM run_looks ORDER BY created_at DESC, name")
    else:
        marks = ", ".join("?" * len(SHOWN_ALWAYS))
        rows = connection.execute(
            f"""SELECT * FROM run_looks WHERE state IN ({marks})
                OR name IN (SELECT name FROM runs ORDER BY created_at DESC LIMIT ?)
                ORDER BY created_at DESC, name""",
            (*SHOWN_ALWAYS, latest),
        )
    return tuple(_run(row) for row in rows.fetchall())


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0])


def run_names(connection: sqlite3.Connection) -> tuple[str, ...]:
    return tuple(row["name"] for row in connection.execute("SELECT name FROM runs ORDER BY created_at DESC").fetchall())


def folders(connection: sqlite3.Connection) -> tuple[Path, ...]:
    """Of all runs, the oldest first."""
    return tuple(Path(row[0]) for row in connection.execute("SELECT folder FROM runs ORDER BY created_at").fetchall())


def _run(row: Row) -> RunRecord:
    return RunRecord(
        name=row["name"],
        run_id=row["run_id"],
        folder=Path(row["folder"]),
        cluster=row["cluster"],
        scheduler=row["scheduler"],
        spec=row["spec"],
        epochs=row["epochs"],
        limits=contract.loads(Limits, row["limits"]),
        created_at=row["created_at"],
        state=RunState(row["state"]),
        hold_reason=row["hold_reason"],
        cancelled_at=row["cancelled_at"],
        attempts=row["attempts"],
    )


# --- jobs -------------------------------------------------------------------------------------------


def jobs_live(connection: sqlite3.Connection) -> tuple[JobRecord, ...]:
    rows = connection.execute("SELECT * FROM job_looks WHERE ended_at IS NULL ORDER BY submitted_at").fetchall()
    return tuple(_job(row) for row in rows)


def newest_job(connection: sqlite3.Connection, name: str) -> JobRecord | None:
    """Of the run's newest attempt."""
    row = connection.execute(
        "SELECT * FROM job_looks WHERE run = ? ORDER BY attempt DESC, submitted_at DESC LIMIT 1", (name,)
    ).fetchone()
    return None if row is None else _job(row)


def job(connection: sqlite3.Connection, nonce: str) -> JobRecord | None:
    row = connection.execute("SELECT * FROM job_looks WHERE nonce = ?", (nonce,)).fetchone()
    return None if row is None else _job(row)


def jobs(connection: sqlite3.Connection, name: str) -> tuple[JobRecord, ...]:
    """All jobs of a run, oldest first."""
    rows = connection.execute("SELECT * FROM job_looks WHERE run = ? ORDER BY attempt, submitted_at", (name,))
    return tuple(_job(row) for row in rows.fetchall())


def identity_of(row: Row) -> JobIdentity:
    return JobIdentity(
        run=row["run"],
        run_id=row["run_id"],
        attempt=row["attempt"],
        nonce=row["nonce"],
        submitted_at=row["submitted_at"],
    )


def _job(row: Row) -> JobRecord:
    return JobRecord(
        identity=identity_of(row),
        folder=Path(row["folder"]),
        answer=None if row["answer"] is None else Answer(row["answer"]),
        scheduler_id=row["scheduler_id"],
        state=JobState(row["state"]),
        raw=row["raw"],
        missing_since=row["missing_since"],
        cancel_requested=row["cancel_requested_at"] is not None,
        stop_requested_at=row["stop_requested_at"],
        ended_at=row["ended_at"],
        exit_code=row["exit_code"],
        cursor=Cursor(offset=row["offset"], inode=row["inode"], seq=row["seq"]),
        landmarks=Landmarks(
            started=_event(row["started_line"]),
            progress=_event(row["progress_line"]),
            checkpoint=_event(row["checkpoint_line"]),
            diverged=_event(row["diverged_line"]),
            final=_event(row["final_line"]),
        ),
        pulse=None if row["pulse"] is None else contract.loads(Pulse, row["pulse"]),
        troubled=bool(row["troubled"]),
    )


def _event(line: str | None) -> Event | None:
    return None if line is None else event_of(line)


# --- lineage ----------------------------------------------------------------------------------------


def history(connection: sqlite3.Connection, record: RunRecord) -> History:
    """What policy may look at."""
    return History(
        run=record.name,
        state=record.state,
        attempts=attempts(connection, record.name),
        checkpoints=checkpoints(connection, record.name),
        hold_reason=record.hold_reason,
        profiles=_profiles(settings(record)),
        exclude=_exclude(record),
        set_going_at=_set_going_at(connection, record.name),
    )


def _exclude(record: RunRecord) -> str | None:
    """The nodes that the run as launched stays away from; None where there is no choice of nodes."""
    if record.scheduler != "slurm":
        return None
    return str((settings(record).get("slurm") or {}).get("exclude") or "")


def _set_going_at(connection: sqlite3.Connection, name: str) -> float:
    """When a person last launched, resumed or released the run."""
    row = connection.execute(
        "SELECT max(time) FROM decisions WHERE run = ? AND (kind = 'release' OR (kind = 'intent' AND actor != ?))",
        (name, WATCHDOG),
    ).fetchone()
    return float(row[0] or 0.0)


def settings(record: RunRecord) -> dict[str, Any]:
    """The run's spec as launched, as plain JSON types."""
    spec = _object(record.spec).get("spec")
    if not isinstance(spec, dict):
        raise ValueError(f"run '{record.name}' has no spec: {record.spec!r:.80}")
    return spec


def recovery(record: RunRecord) -> RecoverySpec:
    """What policy may do for this run."""
    return contract.loads(RecoverySpec, json.dumps(settings(record).get("recovery", {})))


def _profiles(spec: Mapping[str, Any]) -> dict[Precision, dict[str, Any]]:
    """A spec's profiles name values below `train`; policy's patches name them from the top."""
    profiles = spec.get("precisions") or {}
    return {
        Precision(precision): {f"train.{path}": value for path, value in values.items()}
        for precision, values in profiles.items()
    }


_ATTEMPTS = """
    SELECT looks.*,
        (SELECT time FROM incidents AS i WHERE i.run = looks.run AND i.attempt = looks.number
            ORDER BY time DESC LIMIT 1) AS incident_at,
        (SELECT max(ended_at) FROM jobs AS j WHERE j.run = looks.run AND j.attempt = looks.number) AS ended_at,
        EXISTS (SELECT 1 FROM jobs AS j WHERE j.run = looks.run AND j.attempt = looks.number AND j.answer = 'adopted')
            AS adopted,
        (SELECT line FROM events AS e WHERE e.run = looks.run AND e.attempt = looks.number AND e.seq = looks.started)
            AS started_line
    FROM attempt_looks AS looks"""


def attempts(connection: sqlite3.Connection, name: str) -> tuple[AttemptRecord, ...]:
    rows = connection.execute(f"{_ATTEMPTS} WHERE run = ? ORDER BY number", (name,)).fetchall()
    return tuple(_attempt(row) for row in rows)


def attempt(connection: sqlite3.Connection, name: str, number: int) -> AttemptRecord | None:
    row = connection.execute(f"{_ATTEMPTS} WHERE run = ? AND number = ?", (name, number)).fetchone()
    return None if row is None else _attempt(row)


def last_incident(connection: sqlite3.Connection, name: str) -> Incident | None:
    row = connection.execute(
        "SELECT facts FROM incidents WHERE run = ? ORDER BY attempt DESC, time DESC LIMIT 1", (name,)
    ).fetchone()
    return None if row is None else contract.loads(Incident, row["facts"])


def _attempt(row: Row) -> AttemptRecord:
    parent = parent_of(row["parent"])
    return AttemptRecord(
        number=row["number"],
        parent_digest=parent.digest if parent else None,
        parent_path=parent.path if parent else None,
        settings_digest=row["settings_digest"],
        train=_object(row["train"]),
        patch=_object(row["patch"]),
        ranks=row["ranks"],
        created_at=row["created_at"],
        incident=None if row["incident"] is None else contract.loads(Incident, row["incident"]),
        live=bool(row["live"]),
        samples_seen=row["samples_seen"],
        incident_at=row["incident_at"],
        ended_at=row["ended_at"],
        nodes=_nodes(_event(row["started_line"])),
        adopted=bool(row["adopted"]),
    )


def _nodes(started: Event | None) -> tuple[str, ...]:
    found = started.facts.get("nodes") if started else None
    return tuple(map(str, found)) if isinstance(found, list) else ()


def parent_of(text: str | None) -> Parent | None:
    return None if text is None else contract.loads(Parent, text)


def checkpoints(
    connection: sqlite3.Connection, name: str, *, attempt: int | None = None
) -> tuple[CheckpointRecord, ...]:
    """Of the run, or of one attempt; in the order in which they were written."""
    rows = connection.execute(
        """SELECT path, manifest, state FROM checkpoints
           WHERE run = ? AND (? IS NULL OR attempt = ?) ORDER BY attempt, samples_seen""",
        (name, attempt, attempt),
    ).fetchall()
    return tuple(
        CheckpointRecord(
            path=row["path"],
            manifest=contract.loads(CheckpointManifest, row["manifest"]),
            state=CheckpointState(row["state"]),
        )
        for row in rows
    )


def decisions(connection: sqlite3.Connection, name: str) -> tuple[DecisionRecord, ...]:
    rows = connection.execute("SELECT * FROM decisions WHERE run = ? ORDER BY time, rowid", (name,)).fetchall()
    return tuple(DecisionRecord(**dict(row) | {"facts": _object(row["facts"])}) for row in rows)


def events(connection: sqlite3.Connection, name: str, kinds: Sequence[str]) -> Iterator[tuple[int, Event]]:
    """Of a run's attempts, each with the attempt's number, in the order in which they were written."""
    marks = ", ".join("?" * len(kinds))
    rows = connection.execute(
        f"SELECT attempt, line FROM events WHERE run = ? AND kind IN ({marks}) ORDER BY attempt, seq", (name, *kinds)
    )
    for row in rows.fetchall():
        yield row["attempt"], contract.loads(Event, row["line"])


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {text!r:.80}")
    return value
