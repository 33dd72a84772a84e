"""Does an attempt go on as its parent left off? What the parent's last progress before the checkpoint said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from trainer.contract import EVENTS_FILE, Event, EventKind, Parent, loads

COMPARED = ("loss", "logit_scale", "lr", "samples_per_second")
_MARK = f'"{EventKind.PROGRESS}"'  # a hundred times faster than to parse every line of weeks


def left_off(run_folder: Path, parent: Parent | None) -> Mapping[str, float]:
    """COMPARED, as far as they were finite; nothing without a parent, or where its events cannot be read."""
    if parent is None:
        return {}
    try:
        with open((run_folder / parent.path).parent.parent / EVENTS_FILE, encoding="utf-8", errors="replace") as lines:
            newest = max(filter(None, (_progress(line, parent) for line in lines)), key=_reach, default=None)
    except OSError:
        return {}
    return comparable(newest.facts) if newest else {}


def _progress(line: str, parent: Parent) -> Event | None:
    if _MARK not in line:
        return None
    try:
        event = loads(Event, line)
    except ValueError:
        return None
    return event if event.kind == EventKind.PROGRESS and event.samples_seen <= parent.samples_seen else None


def _reach(event: Event) -> int:
    return event.samples_seen


def comparable(facts: Mapping[str, object]) -> dict[str, float]:
    numbers = {name: facts[name] for name in COMPARED if name in facts}
    return {name: value for name, value in numbers.items() if isinstance(value, (int, float)) and math.isfinite(value)}
