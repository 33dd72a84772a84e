"""What the database says of evaluations; as `views`, through the standard library alone."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from clipctl.domain import EvaluationIdentity
from clipctl.store.records import Answer, EvaluationRecord

_ALL = """
SELECT evaluations.*, runs.run_id, runs.folder, runs.cluster
FROM evaluations JOIN runs ON runs.name = evaluations.run
"""


def of(connection: sqlite3.Connection, run: str) -> tuple[EvaluationRecord, ...]:
    """By epoch, the oldest submission first."""
    rows = connection.execute(f"{_ALL} WHERE run = ? ORDER BY epoch, submitted_at, nonce", (run,)).fetchall()
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    scores = "SELECT nonce, dataset, metric, value FROM scores WHERE run = ? ORDER BY rowid"
    for nonce, dataset, metric, value in connection.execute(scores, (run,)).fetchall():
        found[nonce][dataset][metric] = value
    return tuple(_record(row, found[row["nonce"]]) for row in rows)


def unfinished(connection: sqlite3.Connection) -> tuple[EvaluationRecord, ...]:
    """Of all runs: those whose end is not stored."""
    rows = connection.execute(f"{_ALL} WHERE ended_at IS NULL ORDER BY submitted_at").fetchall()
    return tuple(_record(row, {}) for row in rows)


def _record(row: sqlite3.Row, scores: Mapping[str, Mapping[str, float]]) -> EvaluationRecord:
    return EvaluationRecord(
        identity=EvaluationIdentity(
            run=row["run"],
            run_id=row["run_id"],
            attempt=row["attempt"],
            nonce=row["nonce"],
            submitted_at=row["submitted_at"],
        ),
        folder=Path(row["folder"]),
        cluster=row["cluster"],
        epoch=row["epoch"],
        checkpoint=row["checkpoint"],
        suite=row["suite"],
        datasets=tuple(json.loads(row["datasets"])),
        answer=None if row["answer"] is None else Answer(row["answer"]),
        scheduler_id=row["scheduler_id"],
        raw=row["raw"],
        ended_at=row["ended_at"],
        exit_code=row["exit_code"],
        scores=scores,
    )
