"""What changed in code and libraries since an attempt started: its own record against what is installed here."""

from __future__ import annotations

from collections.abc import Mapping

from clipctl import journal
from clipctl.domain import Cursor
from clipctl.journal import Files
from clipctl.layout import RunFolder
from trainer.contract import Event
from trainer.provenance import versions


def changed_since(files: Files, folder: RunFolder, attempt: int) -> tuple[str, ...]:
    """A line for each that differs, such as `torch 2.6.0 -> 2.7.0`. What only nodes know (CUDA, driver) is left out."""
    started = started_event(files, folder, attempt)
    before = started.facts.get("versions") if started else None
    return differences(before, versions()) if isinstance(before, Mapping) else ()


def started_event(files: Files, folder: RunFolder, attempt: int) -> Event | None:
    facts, _ = journal.read(files, folder.attempt(attempt), Cursor())
    return journal.landmarks(facts.events).started


def differences(before: Mapping[str, object], now: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(
        f"{name} {before[name]} -> {now[name]}" for name in sorted(now) if name in before and before[name] != now[name]
    )
