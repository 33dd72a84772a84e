"""What a run's folder says, read without clipctl's own reader: the checks must not share its mistakes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.verify import damage, read_manifest

Record = dict[str, Any]


@dataclass(frozen=True)
class Saved:
    """A published checkpoint. `place`: its path in the run's folder."""

    place: str
    path: Path
    attempt: int
    epochs_done: int
    step_in_epoch: int
    samples_seen: int
    time: float

    @cached_property
    def sound(self) -> bool:
        """Its weights are finite and its bytes are the ones that were written."""
        return damage(self.path, read_manifest(self.path)) is None


@dataclass(frozen=True)
class RunFiles:
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def entries(self, kind: str | None = None) -> list[Record]:
        """Whole lines of decisions.jsonl that were not taken back, oldest first."""
        lines = lines_of(self.path / "decisions.jsonl")
        void = {line["of"] for line in lines if line["kind"] == "void"}
        entries = [line for line in lines if line["kind"] != "void" and line["id"] not in void]
        return [entry for entry in entries if kind in (None, entry["kind"])]

    def intents(self) -> list[Record]:
        return self.entries("intent")

    def incidents(self, attempt: int | None = None) -> list[Record]:
        """The incidents themselves, of one attempt or of all, in order."""
        return [entry["incident"] for entry in self.entries("incident") if attempt in (None, entry["attempt"])]

    def kinds(self) -> list[str]:
        """Of all incidents, in order."""
        return [incident["kind"] for incident in self.incidents()]

    @property
    def spec(self) -> Record:
        return dict(json.loads((self.path / "run.json").read_text())["spec"])

    @property
    def rollback(self) -> int:
        return int(self.spec["recovery"]["rollback_epochs"])

    def events(self, attempt: int, kind: str | None = None) -> list[Record]:
        events = lines_of(self.path / f"attempts/{attempt}/events.jsonl")
        return [event for event in events if kind in (None, event["kind"])]

    def attempt(self, number: int) -> Record:
        """What its ranks are told; of one whose files were never written, what was intended."""
        try:
            return dict(json.loads((self.path / f"attempts/{number}/attempt.json").read_text()))
        except FileNotFoundError:
            return next(intent for intent in self.intents() if intent["attempt"] == number)

    def claimed_at(self, attempt: int) -> float | None:
        try:
            return float(json.loads((self.path / f"attempts/{attempt}/claim").read_text())["time"])
        except FileNotFoundError:
            return None

    def beat(self) -> Record:
        """The newest attempt's heartbeat; empty: it has not begun."""
        newest = max((int(folder.name) for folder in self.path.glob("attempts/*")), default=0)
        try:
            return {"attempt": newest, **json.loads((self.path / f"attempts/{newest}/heartbeat.json").read_text())}
        except FileNotFoundError:
            return {}

    @property
    def settled(self) -> bool:
        """Every job that was intended is over, or was refused."""
        over = {entry["nonce"] for entry in self.entries("end")}
        over |= {entry["nonce"] for entry in self.entries("answer") if entry["answer"] == "rejected"}
        return all(intent["nonce"] in over for intent in self.intents())

    @property
    def completed(self) -> bool:
        return any(self.events(number, "completed") for number in range(1, len(self.intents()) + 1))

    def saved(self, attempt: int) -> list[Saved]:
        """Published checkpoints of one attempt, oldest first."""
        found = list(self._saved(self.path / f"attempts/{attempt}"))
        return sorted(found, key=lambda item: item.samples_seen)

    def _saved(self, folder: Path) -> Iterator[Saved]:
        for path in (*folder.glob("checkpoints/*.pt"), *folder.glob("steps/*.pt")):
            try:
                manifest = read_manifest(path)
            except ValueError:  # a test spoiled it
                continue
            if manifest is not None:
                yield Saved(
                    place=str(path.relative_to(self.path)),
                    path=path,
                    attempt=manifest.attempt,
                    epochs_done=manifest.epochs_done,
                    step_in_epoch=manifest.step_in_epoch,
                    samples_seen=manifest.samples_seen,
                    time=manifest.time,
                )

    def line(self, attempt: int) -> Iterator[Saved]:
        """Checkpoints on the way to where `attempt` stands: its own, its parent's up to there, and so on."""
        limit: int | None = None
        while attempt:
            yield from (item for item in self.saved(attempt) if limit is None or item.samples_seen <= limit)
            parent = self.attempt(attempt)["parent"]
            if parent is None:
                return
            limit, attempt = parent["samples_seen"], int(Path(parent["path"]).parts[1])


def lines_of(file: Path) -> list[Record]:
    try:
        text = file.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
