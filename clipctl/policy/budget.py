"""What restarts without progress have cost. Progress: a good checkpoint above the run's high-water mark of samples."""

from __future__ import annotations

from itertools import zip_longest

from clipctl.domain import AttemptRecord, History, IncidentKind, RecoverySpec
from clipctl.lineage import parent_record
from clipctl.policy.parents import is_usable

# Free where anything was saved that the next attempt could start from: they say nothing about the run.
_INTERRUPTIONS = frozenset({IncidentKind.PREEMPTED, IncidentKind.TIMED_OUT, IncidentKind.NODE_FAILED})


def charged(history: History) -> tuple[AttemptRecord, ...]:
    """The attempts that ended, one after the other, without progress; since a person last set the run going."""
    mark = 0
    found: list[AttemptRecord] = []
    for attempt, following in zip_longest(history.attempts, history.attempts[1:]):
        reached = saved(attempt, history)
        if reached > mark:
            mark, found = reached, []
        elif attempt.incident is not None and not _is_free(attempt, following, reached, history):
            found.append(attempt)
    return tuple(attempt for attempt in found if attempt.created_at >= history.set_going_at)


def _is_free(attempt: AttemptRecord, following: AttemptRecord | None, reached: int, history: History) -> bool:
    assert attempt.incident is not None
    if attempt.incident.kind is IncidentKind.SUBMIT_REFUSED:
        return True  # nothing ran; such tries have a number of their own
    parent = parent_record(history, attempt)
    began = parent.manifest.samples_seen if parent else 0
    next_parent = parent_record(history, following) if following else None
    kept = next_parent is None or next_parent.manifest.samples_seen > began
    return attempt.incident.kind in _INTERRUPTIONS and reached > began and kept


def saved(attempt: AttemptRecord, history: History) -> int:
    """Samples seen at its last good checkpoint; 0: it has none. What was pruned since had been there."""
    own = (item for item in history.checkpoints if item.manifest.attempt == attempt.number)
    return max((item.manifest.samples_seen for item in own if is_usable(item, history)), default=0)


def since_progress(history: History) -> tuple[AttemptRecord, ...]:
    """From the attempt that reached the high-water mark on; its settings are what is changed step by step."""
    mark, first = 0, 0
    for index, attempt in enumerate(history.attempts):
        if (reached := saved(attempt, history)) > mark:
            mark, first = reached, index
    return history.attempts[first:]


def in_a_row(attempts: tuple[AttemptRecord, ...], kind: IncidentKind) -> int:
    """How many of the last ones ended like this, with the newest one's nodes."""
    count = 0
    for attempt in reversed(attempts):
        same = attempt.patch.get("slurm.exclude") == attempts[-1].patch.get("slurm.exclude")
        if attempt.incident is None or attempt.incident.kind is not kind or not same:
            break
        count += 1
    return count


def refused_in_a_row(history: History) -> int:
    recent = tuple(attempt for attempt in history.attempts if attempt.created_at >= history.set_going_at)
    return in_a_row(recent, IncidentKind.SUBMIT_REFUSED)


def not_before(attempt: AttemptRecord, tries: int, recovery: RecoverySpec) -> float:
    """When the next try may come after so many in a row."""
    if not tries:
        return 0.0
    last = attempt.created_at if attempt.ended_at is None else attempt.ended_at
    pause = recovery.backoff * 2.0 ** min(tries - 1, 60)  # the cap is far below
    return last + min(pause, recovery.longest_backoff)
