"""Where each file of a run lies. Paths only; nothing here touches a disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer import contract, evaluation


@dataclass(frozen=True)
class JobFolder:
    path: Path

    @property
    def job(self) -> Path:
        return self.path / contract.JOB_FILE

    @property
    def submission(self) -> Path:
        return self.path / contract.SUBMISSION_FILE

    @property
    def exit(self) -> Path:
        return self.path / contract.EXIT_FILE

    @property
    def withdrawn(self) -> Path:
        return self.path / contract.WITHDRAWN_FILE

    @property
    def logs(self) -> Path:
        return self.path / contract.LOGS_FOLDER


@dataclass(frozen=True)
class AttemptFolder:
    path: Path

    @property
    def number(self) -> int:
        return int(self.path.name)

    @property
    def attempt(self) -> Path:
        return self.path / contract.ATTEMPT_FILE

    @property
    def claim(self) -> Path:
        return self.path / contract.CLAIM_FILE

    @property
    def events(self) -> Path:
        return self.path / contract.EVENTS_FILE

    @property
    def heartbeat(self) -> Path:
        return self.path / contract.HEARTBEAT_FILE

    @property
    def save_now(self) -> Path:
        return self.path / contract.SAVE_FILE

    @property
    def checkpoints(self) -> Path:
        return self.path / contract.CHECKPOINTS_FOLDER

    @property
    def steps(self) -> Path:
        return self.path / contract.STEPS_FOLDER


@dataclass(frozen=True)
class EvaluationFolder(JobFolder):
    """`evals/<nonce>`: a job of its own, outside all attempts."""

    @property
    def evaluation(self) -> Path:
        return self.path / evaluation.EVALUATION_FILE

    @property
    def results(self) -> Path:
        return self.path / evaluation.RESULTS_FILE


@dataclass(frozen=True)
class RunFolder:
    """`<root>/runs/<run>`."""

    path: Path

    @classmethod
    def of(cls, root: Path, run: str) -> RunFolder:
        return cls(root / "runs" / run)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def run(self) -> Path:
        return self.path / "run.json"

    @property
    def decisions(self) -> Path:
        return self.path / "decisions.jsonl"

    def job(self, nonce: str) -> JobFolder:
        return JobFolder(self.path / "jobs" / nonce)

    def evaluation(self, nonce: str) -> EvaluationFolder:
        return EvaluationFolder(self.path / evaluation.EVALUATIONS_FOLDER / nonce)

    def attempt(self, number: int) -> AttemptFolder:
        return AttemptFolder(self.path / "attempts" / str(number))

    def relative(self, path: Path) -> str:
        """As stored in lineage: relative inside the run's folder, so that the folder can move; absolute outside."""
        return str(path.relative_to(self.path)) if path.is_relative_to(self.path) else str(path)

    def resolve(self, stored: str) -> Path:
        return self.path / stored
