"""Evaluations: jobs that score a checkpoint. None of them is a job of the run's: nothing waits for one, nor yields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipctl.domain import Accepted, EvaluationIdentity, Rejected, Unknown
from clipctl.store import rows, scores
from clipctl.store.ledger import EntryKind
from clipctl.store.records import ANSWERS, EvaluationRecord
from clipctl.store.transactions import Entry, Transactions
from trainer.evaluation import Evaluation, Result


class Evaluations(Transactions):
    """A part of the store."""

    def intend_evaluation(self, evaluation: Evaluation, *, actor: str, time: float) -> EvaluationIdentity:
        """Before anything is submitted."""
        named = ("nonce", "epoch", "checkpoint", "digest", "suite", "datasets", "data")
        facts = {name: getattr(evaluation, name) for name in named}
        basis = f"epoch {evaluation.epoch} on {evaluation.suite}"
        with self._writing() as session:
            run = rows.existing_run(session, evaluation.run)
            entry = Entry(
                kind=EntryKind.EVALUATION,
                actor=actor,
                basis=basis,
                time=time,
                attempt=evaluation.attempt,
                facts=facts,
            )
            self._record(session, run, entry)
            return EvaluationIdentity(
                run=run.name,
                run_id=run.run_id,
                attempt=evaluation.attempt,
                nonce=evaluation.nonce,
                submitted_at=time,
            )

    def evaluation_answered(self, nonce: str, answer: Accepted | Rejected | Unknown, *, time: float) -> None:
        """What the scheduler said to its submission. Rejected: there is none."""
        said = answer.scheduler_id if isinstance(answer, Accepted) else answer.reason
        facts = {"answer": ANSWERS[type(answer)]}
        self._say(nonce, EntryKind.EVALUATION_ANSWER, "scheduler", said, time, facts)

    def evaluated(
        self, nonce: str, results: Sequence[Result], *, exit_code: int | None, time: float, lost: str = ""
    ) -> None:
        """Its job is over, and what it left. Once is enough. `lost`: how that is known of one without exit code."""
        failed = sum(1 for result in results if result.error)
        basis = f"{lost or f'exit.json says code {exit_code}'}; sets scored: {len(results) - failed}"
        facts = {"exit_code": exit_code, "results": list(results), "lost": lost}
        self._say(nonce, EntryKind.EVALUATION_END, "clipctl", basis, time, facts)

    def _say(self, nonce: str, kind: EntryKind, actor: str, basis: str, time: float, facts: Mapping[str, Any]) -> None:
        with self._writing() as session:
            row, run = rows.existing_evaluation(session, nonce)
            if row.ended_at is not None:
                return
            facts = {"nonce": nonce, **facts}
            entry = Entry(kind=kind, actor=actor, basis=basis, time=time, attempt=row.attempt, facts=facts)
            self._record(session, run, entry)

    # --- reads ----------------------------------------------------------------------------------

    def unfinished_evaluations(self) -> tuple[EvaluationRecord, ...]:
        """Of all runs: those whose end is not stored."""
        with self._reading() as connection:
            return scores.unfinished(connection)
