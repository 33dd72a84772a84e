"""What a tick has to look at, as names alone: a row that cannot be read must not hide the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipctl.store import views

WEEK = 7 * 86_400.0  # a request that was parked in a frozen controller may be accepted long after

_RUNS = """
SELECT runs.name, runs.cluster, jobs.nonce
FROM runs LEFT JOIN jobs ON jobs.run = runs.name AND jobs.ended_at IS NULL
WHERE jobs.nonce IS NOT NULL OR EXISTS (SELECT 1 FROM standbys WHERE run = runs.name AND ended_at IS NULL)
    OR runs.state NOT IN ('held', 'cancelled', 'completed')
    OR (runs.state = 'completed' AND 'complete' IS NOT (
        SELECT kind FROM decisions INDEXED BY decisions_by_run
        WHERE run = runs.name AND kind IN ('intent', 'complete') ORDER BY time DESC, rowid DESC LIMIT 1))
ORDER BY runs.created_at, runs.name
"""
_DOUBTFUL = """
SELECT DISTINCT runs.cluster FROM jobs JOIN runs ON runs.name = jobs.run
WHERE jobs.ended_at > ? AND jobs.state = 'UNKNOWN' ORDER BY runs.cluster
"""


@dataclass(frozen=True, kw_only=True)
class Due:
    run: str
    cluster: str
    nonce: str | None  # of its job that may be alive


@dataclass(frozen=True, kw_only=True)
class AllDue:
    runs: tuple[Due, ...]  # that live, stand by, may go on, or have completed without anybody saying so; oldest first
    doubtful: tuple[str, ...]  # clusters on which a job that was taken for gone may turn up again
    held: int  # runs that wait for a person


def due(home: Path, now: float) -> AllDue:
    with views.reading(home) as connection:
        if connection is None:
            return AllDue(runs=(), doubtful=(), held=0)
        runs = connection.execute(_RUNS).fetchall()
        doubtful = connection.execute(_DOUBTFUL, (now - WEEK,)).fetchall()
        held = connection.execute("SELECT count(*) FROM runs WHERE state = 'held'").fetchone()[0]
    return AllDue(
        runs=tuple(Due(run=str(name), cluster=str(cluster), nonce=nonce) for name, cluster, nonce in runs),
        doubtful=tuple(cluster for (cluster,) in doubtful),
        held=int(held),
    )
