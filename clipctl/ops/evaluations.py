"""Evaluation jobs that are not over: what they left is stored, and those that were killed without a word are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipctl import journal
from clipctl.domain import Limits, QueueSnapshot, Unobservable, answer_about
from clipctl.journal import LocalFiles
from clipctl.layout import RunFolder
from clipctl.ops.clock import Clock
from clipctl.ops.observe import UNREADABLE
from clipctl.store import Answer, EvaluationRecord
from clipctl.store.due import WEEK

if TYPE_CHECKING:
    from clipctl.store.writer import Store


def take_in(store: Store, clock: Clock) -> tuple[tuple[str, ...], tuple[EvaluationRecord, ...]]:
    """What jobs left that came to their end, into the store: a line each. And those that left nothing yet.

    Files alone are read: nobody is asked. One whose disk does not answer has left nothing.
    """
    try:
        told = [(each, _take_in(each, store, clock)) for each in store.unfinished_evaluations()]
    except UNREADABLE as error:
        return (_not_taken_in(error),), ()
    return tuple(line for _, line in told if line), tuple(each for each, line in told if not line)


def take_in_lost(
    records: Sequence[EvaluationRecord],
    answer: QueueSnapshot | Unobservable,
    *,
    limits: Limits,
    store: Store,
    clock: Clock,
) -> tuple[str, ...]:
    """What jobs left that their scheduler calls ended, or does not know any more: a line each.

    `records`: as they were before `answer` was asked for, all of one cluster.
    """
    lost = [(each, why) for each in records if (why := _lost(each, answer, limits, clock.now()))]
    try:
        told = [_take_in(each, store, clock, why) for each, why in lost]
    except UNREADABLE as error:
        return (_not_taken_in(error),)
    return tuple(filter(None, told))


def _take_in(record: EvaluationRecord, store: Store, clock: Clock, lost: str = "") -> str:
    """`lost`: why no exit.json will come."""
    files, folder = LocalFiles(), RunFolder(record.folder).evaluation(record.identity.nonce)
    try:
        end, results = journal.exit_record(files, folder), journal.results(files, folder)
    except OSError:
        return ""
    if end is None and not lost:
        return ""
    code, lost = (end.code, "") if end else (None, lost)
    store.evaluated(record.identity.nonce, results, exit_code=code, lost=lost, time=clock.now())
    how = lost or f"code {code}"
    return f"{record.identity.run}: evaluated: epoch {record.epoch} on {record.suite}, {how}"


def _not_taken_in(error: Exception) -> str:
    """Evaluations are nobody's reason not to look after runs."""
    return f"evaluations: not taken in: {type(error).__name__}: {str(error)[:200]}"


def _lost(record: EvaluationRecord, answer: QueueSnapshot | Unobservable, limits: Limits, now: float) -> str:
    """Empty: it may live, or nobody knows. The exit.json of one that has just ended may not have come here yet."""
    answer = answer_about(record.scheduler_id, answer)
    if isinstance(answer, Unobservable):
        return ""
    report = answer.jobs.get(record.identity.nonce)
    arrived = report is not None or record.answer is Answer.ACCEPTED
    ended_at = report.ends_at if report else None
    if now - (ended_at or record.identity.submitted_at) < (limits.lost_after if arrived else WEEK):
        return ""
    if report is None:
        return "absent from the scheduler's answer"
    return f"the scheduler says {report.state}" if report.over else ""
