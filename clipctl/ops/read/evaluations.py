"""What evaluations of a run gave: as stored, and what the folders of those that are not over say by now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from clipctl import journal
from clipctl.errors import NotFound
from clipctl.journal import Files, LocalFiles
from clipctl.layout import RunFolder
from clipctl.store import scores, views
from clipctl.store.records import Answer, EvaluationRecord
from trainer.contract import SCHEMA, ExitCode

_LOCAL = LocalFiles()


class EvaluationState(StrEnum):
    REFUSED = "refused"  # by the scheduler: there is no job
    SUBMITTED = "submitted"  # no set is done yet
    RUNNING = "running"  # some are
    DONE = "done"
    FAILED = "failed"  # with what was scored before, and beside


@dataclass(frozen=True, kw_only=True)
class EvaluationView:
    nonce: str
    epoch: int
    attempt: int
    checkpoint: str
    suite: str
    submitted_at: float
    scheduler_id: str | None
    state: EvaluationState
    reason: str  # the scheduler's, for a refusal or an end without a word
    log: str  # where the job says what went wrong
    wanted: int  # sets
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of each set its metrics
    errors: Mapping[str, str] = field(default_factory=dict)  # by set


@dataclass(frozen=True, kw_only=True)
class EvaluationsView:
    run: str
    evaluations: tuple[EvaluationView, ...]  # by epoch
    schema: int = SCHEMA


def evaluations(home: Path, run: str, *, files: Files = _LOCAL) -> EvaluationsView:
    """NotFound: there is no run of that name. OSError: a folder does not answer."""
    with views.reading(home) as connection:
        if connection is None or views.run(connection, run) is None:
            raise NotFound(f"there is no run {run!r}", hint="clipctl status --all")
        records = scores.of(connection, run)
    return EvaluationsView(run=run, evaluations=tuple(_view(record, files) for record in records))


def _view(record: EvaluationRecord, files: Files) -> EvaluationView:
    folder = RunFolder(record.folder).evaluation(record.identity.nonce)
    results = journal.results(files, folder)
    code = record.exit_code
    if record.ended_at is None and (end := journal.exit_record(files, folder)) is not None:
        code = end.code
    found = record.scores or {each.dataset: each.metrics for each in results if each.metrics}
    return EvaluationView(
        nonce=record.identity.nonce,
        epoch=record.epoch,
        attempt=record.identity.attempt,
        checkpoint=record.checkpoint,
        suite=record.suite,
        submitted_at=record.identity.submitted_at,
        scheduler_id=record.scheduler_id,
        state=_state(record, code, bool(results)),
        reason=record.raw if record.ended_at is not None and code is None else "",
        log=str(folder.logs / "script.log"),
        wanted=len(record.datasets),
        scores=found,
        errors={each.dataset: each.error for each in results if each.error},
    )


def _state(record: EvaluationRecord, code: int | None, begun: bool) -> EvaluationState:
    if record.answer is Answer.REJECTED:
        return EvaluationState.REFUSED
    if code is not None or record.ended_at is not None:
        return EvaluationState.DONE if code == ExitCode.COMPLETED else EvaluationState.FAILED
    return EvaluationState.RUNNING if begun else EvaluationState.SUBMITTED
