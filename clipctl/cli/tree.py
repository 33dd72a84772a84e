"""A run's lineage as a tree: each attempt below the one whose checkpoint it started from."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from clipctl.cli.words import clean, count, plural
from trainer.contract import EventKind

if TYPE_CHECKING:
    from clipctl.domain import Incident
    from clipctl.ops.read import AttemptView, ShowView

WIDTH = 200  # lines are not broken: a person may search them


def lineage(view: ShowView) -> list[str]:
    """Plain lines, for a terminal and a file alike."""
    root = Tree(Text(f"{view.run.name}: {plural(len(view.lineage), 'attempt')}"))
    nodes: dict[int, Tree] = {}
    for attempt in view.lineage:
        above = nodes.get(attempt.parent_attempt, root) if attempt.parent_attempt is not None else root
        nodes[attempt.number] = node = above.add(Text(_title(attempt)))
        for line in _details(attempt):
            node.add(Text(line))
    where = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding)  # whose alphabet the branches are drawn in
    console = Console(file=where, width=WIDTH, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(root)
    return [line.rstrip() for line in captured.get().splitlines()]


def _title(attempt: AttemptView) -> str:
    start = f"from {clean(attempt.parent_path)}" if attempt.parent_path else "from the start"
    shape = f"{attempt.precision}, {attempt.batch}"
    return f"attempt {attempt.number}: {start}; {shape}; {count(attempt.samples_seen)} samples; {_end(attempt)}"


def _end(attempt: AttemptView) -> str:
    if attempt.incident is None or _went_through(attempt):
        return attempt.final or ("live" if attempt.live else "ended")
    return _told(attempt.incident)


def _went_through(attempt: AttemptView) -> bool:
    """Whatever it met on the way."""
    return attempt.final == EventKind.COMPLETED


def _told(incident: Incident) -> str:
    place = "" if incident.epoch is None else f" at epoch {incident.epoch}"
    place += "" if incident.step_in_epoch is None else f", step {incident.step_in_epoch}"
    return f"{incident.kind}{place} ({clean(incident.detail)})"


def _details(attempt: AttemptView) -> list[str]:
    lines = [f"because {clean(attempt.cause)} ({clean(attempt.actor)})"] if attempt.cause else []
    if attempt.incident and _went_through(attempt):
        lines.append(_told(attempt.incident))
    return lines + [f"{change.path}: {change.before} -> {change.after}" for change in attempt.changes]
