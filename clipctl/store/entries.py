"""What is decided or found out: a row of `decisions`, and the same as a line of the run's decisions.jsonl."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlmodel import Session

from clipctl.layout import RunFolder
from clipctl.store import ledger, rows
from clipctl.store.ledger import EntryKind
from clipctl.store.records import Intent
from clipctl.store.tables import DecisionRow, RunRow
from trainer import contract


@dataclass(frozen=True, kw_only=True)
class Entry:
    """`actor`: a user's name, "watchdog", or who told us."""

    kind: EntryKind
    actor: str
    basis: str
    time: float
    attempt: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def told(kind: EntryKind, actor: str, basis: str, time: float, attempt: int, facts: Mapping[str, Any]) -> Entry:
    return Entry(kind=kind, actor=actor, basis=basis, time=time, attempt=attempt, facts=facts)


def intended(kind: EntryKind, run: RunRow, intent: Intent, attempt: int, **more: Any) -> Entry:
    """An attempt and its job with all that the database makes of them."""
    facts = {
        "run_id": run.run_id,
        "cluster": run.cluster,
        "scheduler": run.scheduler,
        "epochs": run.epochs,
        "limits": json.loads(run.limits),
        "nonce": intent.nonce,
        "ranks": intent.ranks,
        "parent": intent.parent,
        "settings_digest": intent.settings_digest,
        "patch": intent.patch,
        "train": intent.train,
    }
    return told(kind, intent.actor, intent.basis, intent.time, attempt, facts | more)


def record(session: Session, run: RunRow, entry: Entry) -> None:
    """The last step of a transaction: rows first, so that what the database refuses leaves no line."""
    facts = contract.to_jsonable(entry.facts)
    decision = DecisionRow(
        id=secrets.token_hex(8),
        run=run.name,
        attempt=entry.attempt,
        time=entry.time,
        actor=entry.actor,
        kind=entry.kind,
        basis=entry.basis,
        facts=rows.to_json(facts),
    )
    session.add(decision)
    rows.restate(session, run)
    line = decision.model_dump(exclude={"facts"}) | facts | {"schema": contract.SCHEMA}
    ledger.append(RunFolder(Path(run.folder)), line)
