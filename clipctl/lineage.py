"""Which checkpoints lie on the way to where a run stands: an attempt's own, its parent's up to there, and so on."""

from __future__ import annotations

import re

from clipctl.domain import AttemptRecord, CheckpointRecord, CheckpointState, History
from trainer.contract import Parent

_EPOCH_FILE = re.compile(r"epoch_(\d+)\.pt")


def line_of(history: History) -> tuple[CheckpointRecord | Parent, ...]:
    """Newest first. What was rolled back over is not on it; a foreign file that the run began with comes last."""
    return tuple(
        item for item in written(history) if isinstance(item, Parent) or item.state is not CheckpointState.SUPERSEDED
    )


def written(history: History) -> tuple[CheckpointRecord | Parent, ...]:
    """As `line_of`, with those that are pruned."""
    found: list[CheckpointRecord | Parent] = []
    attempts = {attempt.number: attempt for attempt in history.attempts}
    attempt: AttemptRecord | None = history.attempts[-1] if history.attempts else None
    limit: int | None = None  # samples seen, up to which an attempt's checkpoints count
    while attempt is not None:
        found += _of_attempt(history, attempt.number, limit)
        parent = parent_record(history, attempt)
        if parent is None:
            if attempt.parent_path is not None:
                found.append(foreign(attempt.parent_path, attempt.parent_digest))
            return tuple(found)
        limit = parent.manifest.samples_seen
        # A parent was there before its child: numbers only fall, so that damaged records cannot lead in a circle.
        older = attempts.get(parent.manifest.attempt)
        attempt = older if older is not None and older.number < attempt.number else None
    return tuple(found)


def parent_record(history: History, attempt: AttemptRecord) -> CheckpointRecord | None:
    """The record of the file that `attempt` started from; None: from the start, or not one of ours."""
    if attempt.parent_digest is None:
        return None
    return next((item for item in history.checkpoints if item.manifest.digest == attempt.parent_digest), None)


def position(checkpoint: CheckpointRecord | Parent) -> tuple[int, int]:
    """(epochs done, steps into the next)."""
    if isinstance(checkpoint, Parent):
        return checkpoint.epochs_done, 0
    return checkpoint.manifest.epochs_done, checkpoint.manifest.step_in_epoch


def foreign(path: str, digest: str | None = None) -> Parent:
    """A file of another run or of open_clip's, the latter without digest: the name says how many epochs were done."""
    match = _EPOCH_FILE.search(path)
    return Parent(path=path, digest=digest, epochs_done=int(match[1]) if match else 0)


def _of_attempt(history: History, number: int, limit: int | None) -> list[CheckpointRecord]:
    own = [
        item
        for item in history.checkpoints
        if item.manifest.attempt == number and (limit is None or item.manifest.samples_seen <= limit)
    ]
    return sorted(own, key=lambda item: item.manifest.samples_seen, reverse=True)
