"""What an attempt's first event says, and one that tells of a crash: the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.contract import Attempt, EventKind, ExitCode
from trainer.loop import Outcome
from trainer.position import Position


def beginning(attempt: Attempt, at: Position, places: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """`places`: of each rank its host, and its node by the scheduler's name: whom to keep away from."""
    from trainer import provenance  # rank 0 alone needs it

    spec, parent = attempt.train, attempt.parent
    return {
        "versions": provenance.versions(),
        "hosts": sorted({host for host, _ in places}),
        "nodes": [node for _, node in places],
        "ranks": len(places),
        "batch_size": spec.batch_size,
        "accum_freq": spec.accum_freq,
        "workers": spec.data.workers,
        "engine": spec.engine,
        "precision": spec.precision,
        "steps_per_epoch": at.geometry.steps_per_epoch,
        "step_in_epoch": at.step_in_epoch,
        "epochs": spec.epochs,
        "parent": parent.path if parent else None,
        "faults": [fault.kind for fault in spec.faults],
    }


def crashed(at: Position, rank: int, error: str) -> Outcome:
    facts = {"error": error, "rank": rank, "step_in_epoch": at.step_in_epoch}
    return Outcome(ExitCode.CRASHED, EventKind.CRASHED, at, facts)
