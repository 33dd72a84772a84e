"""What a line of decisions.jsonl makes of the database: one function a kind, for whoever writes the line and for
whoever makes the database again from all of them.

A line is a mapping of plain JSON types. Nothing here commits; what only the journals know is not touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from sqlmodel import Session

from clipctl.domain import JobState
from clipctl.store import rows
from clipctl.store.ledger import EntryKind
from clipctl.store.records import Answer
from clipctl.store.tables import (
    AttemptRow,
    CheckpointRow,
    DecisionRow,
    EvaluationRow,
    IncidentRow,
    JobRow,
    RunRow,
    ScoreRow,
    StandbyRow,
)

Line = Mapping[str, Any]

COLUMNS = ("id", "run", "attempt", "time", "actor", "kind", "basis")  # of every line; the rest are facts of its kind
# Of a line that makes an attempt: what it is, beside its number, its job's nonce and the run's own facts
INTENDED = ("ranks", "parent", "settings_digest", "patch", "train")


def take_in(session: Session, run: RunRow, line: Line) -> None:
    """The line as a row, and what it changes. A kind that a newer version wrote is kept as a row."""
    effect = _EFFECTS.get(line["kind"])
    if effect is not None:
        effect(session, run, line)
    facts = {name: value for name, value in line.items() if name not in (*COLUMNS, "schema")}
    session.add(DecisionRow(**{name: line[name] for name in COLUMNS}, facts=rows.to_json(facts)))
    rows.restate(session, run)


def _intent(session: Session, run: RunRow, line: Line) -> None:
    """Whoever starts a cancelled run again has changed their mind; and a run may be given more epochs."""
    run.cancelled_at = None
    run.epochs = line["epochs"]
    job = JobRow(
        nonce=line["nonce"],
        run=run.name,
        attempt=line["attempt"],
        submitted_at=line["time"],
        state=JobState.UNKNOWN,
    )
    rows.add_attempt(session, _attempt(run, line), job)


def _attempt(run: RunRow, line: Line) -> AttemptRow:
    return AttemptRow(
        run=run.name,
        number=line["attempt"],
        parent=None if line["parent"] is None else json.dumps(line["parent"]),
        settings_digest=line["settings_digest"],
        train=json.dumps(line["train"]),
        patch=json.dumps(line["patch"]),
        ranks=line["ranks"],
        created_at=line["time"],
    )


def _answer(session: Session, run: RunRow, line: Line) -> None:
    _is_answered(rows.existing_job(session, line["nonce"])[0], line)


def _is_answered(job: JobRow | StandbyRow | EvaluationRow, line: Line) -> None:
    job.answer = line["answer"]
    if job.answer == Answer.ACCEPTED:
        job.scheduler_id = line["basis"]
    else:
        job.raw = line["basis"]
    if job.answer == Answer.REJECTED:
        job.ended_at = line["time"]


def _adopt(session: Session, run: RunRow, line: Line) -> None:
    """What no scheduler of ours ever knew is over, with the last word of its log."""
    job, _ = rows.existing_job(session, line["nonce"])
    job.answer, job.ended_at = Answer.ADOPTED, line["ended_at"]


def _seen(session: Session, run: RunRow, line: Line) -> None:
    _is_seen(rows.existing_job(session, line["nonce"])[0], line)


def _is_seen(job: JobRow | StandbyRow, line: Line) -> None:
    if line["state"] is None:
        job.missing_since = line["time"]
        return
    job.missing_since, job.answer = None, Answer.ACCEPTED
    job.state, job.raw, job.scheduler_id = line["state"], line["raw"], line["scheduler_id"]


def _end(session: Session, run: RunRow, line: Line) -> None:
    job, _ = rows.existing_job(session, line["nonce"])
    job.ended_at, job.state, job.exit_code = line["time"], line["state"], line["exit_code"]


def _incident(session: Session, run: RunRow, line: Line) -> None:
    said = line["incident"]
    session.merge(  # what ended a job takes the place of what had troubled it
        IncidentRow(run=run.name, attempt=line["attempt"], kind=said["kind"], time=line["time"], facts=json.dumps(said))
    )


def _checked(session: Session, run: RunRow, line: Line) -> None:
    row = session.get(CheckpointRow, (run.name, line["path"]))
    if row is not None:  # when all is made again, files are listed after this: see rows.list_checkpoints
        row.state = line["state"]


def _hold(session: Session, run: RunRow, line: Line) -> None:
    run.hold_reason = line["basis"]


def _release(session: Session, run: RunRow, line: Line) -> None:
    run.hold_reason = None


def _cancel(session: Session, run: RunRow, line: Line) -> None:
    run.cancelled_at = line["time"]
    live = rows.live_job(session, run.name)
    if live is not None:
        live.cancel_requested_at = line["time"]


def _stop(session: Session, run: RunRow, line: Line) -> None:
    job, _ = rows.existing_job(session, line["nonce"])
    job.stop_requested_at = line["time"]


def _standby(session: Session, run: RunRow, line: Line) -> None:
    intent = {name: line[name] for name in INTENDED}
    standby = StandbyRow(
        nonce=line["nonce"],
        run=run.name,
        attempt=line["attempt"],
        after=line["after"],
        submitted_at=line["time"],
        intent=json.dumps(intent),
        state=JobState.UNKNOWN,
    )
    rows.add_standby(session, standby)


def _standby_answer(session: Session, run: RunRow, line: Line) -> None:
    _is_answered(rows.existing_standby(session, line["nonce"])[0], line)


def _standby_seen(session: Session, run: RunRow, line: Line) -> None:
    _is_seen(rows.existing_standby(session, line["nonce"])[0], line)


def _withdraw(session: Session, run: RunRow, line: Line) -> None:
    standby, _ = rows.existing_standby(session, line["nonce"])
    standby.withdrawn_at = line["time"]


def _promote(session: Session, run: RunRow, line: Line) -> None:
    """The attempt as it was intended, from the parent that its claim has named; and its job as it was last seen."""
    standby, _ = rows.existing_standby(session, line["nonce"])
    standby.ended_at = line["time"]
    session.flush()
    job = JobRow(
        nonce=standby.nonce,
        run=run.name,
        attempt=standby.attempt,
        submitted_at=standby.submitted_at,
        answer=standby.answer,
        scheduler_id=standby.scheduler_id,
        state=standby.state,
        raw=standby.raw,
        missing_since=standby.missing_since,
    )
    rows.add_attempt(session, _attempt(run, line), job)


def _standby_end(session: Session, run: RunRow, line: Line) -> None:
    standby, _ = rows.existing_standby(session, line["nonce"])
    standby.ended_at, standby.state = line["time"], line["state"]


def _evaluation(session: Session, run: RunRow, line: Line) -> None:
    named = ("nonce", "attempt", "epoch", "checkpoint", "suite")
    row = EvaluationRow(
        **{name: line[name] for name in named},
        run=run.name,
        datasets=json.dumps(line["datasets"]),
        submitted_at=line["time"],
    )
    session.add(row)
    session.flush()


def _evaluation_answer(session: Session, run: RunRow, line: Line) -> None:
    _is_answered(rows.existing_evaluation(session, line["nonce"])[0], line)


def _evaluation_end(session: Session, run: RunRow, line: Line) -> None:
    evaluation, _ = rows.existing_evaluation(session, line["nonce"])
    evaluation.ended_at, evaluation.exit_code = line["time"], line["exit_code"]
    evaluation.raw = line.get("lost") or evaluation.raw
    for result in line["results"]:
        for metric, value in result["metrics"].items():
            score = ScoreRow(
                nonce=evaluation.nonce,
                dataset=result["dataset"],
                metric=metric,
                run=run.name,
                epoch=evaluation.epoch,
                value=float(value),
            )
            session.add(score)


_EFFECTS: Mapping[str, Callable[[Session, RunRow, Line], None]] = {
    EntryKind.INTENT: _intent,
    EntryKind.ANSWER: _answer,
    EntryKind.ADOPT: _adopt,
    EntryKind.SEEN: _seen,
    EntryKind.END: _end,
    EntryKind.INCIDENT: _incident,
    EntryKind.CHECKED: _checked,
    EntryKind.HOLD: _hold,
    EntryKind.RELEASE: _release,
    EntryKind.CANCEL: _cancel,
    EntryKind.STOP: _stop,
    EntryKind.STANDBY: _standby,
    EntryKind.STANDBY_ANSWER: _standby_answer,
    EntryKind.STANDBY_SEEN: _standby_seen,
    EntryKind.WITHDRAW: _withdraw,
    EntryKind.PROMOTE: _promote,
    EntryKind.STANDBY_END: _standby_end,
    EntryKind.EVALUATION: _evaluation,
    EntryKind.EVALUATION_ANSWER: _evaluation_answer,
    EntryKind.EVALUATION_END: _evaluation_end,
}
