"""history: the logbook of a run, for who was away."""

from __future__ import annotations

import shutil
import textwrap
import time
from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.cli.app import AsJson, RunName, app
from clipctl.cli.words import clean, columns, say, say_json
from clipctl.errors import Refused

if TYPE_CHECKING:
    from clipctl.ops.read.logbook import HistoryView, Line

NARROWEST, WIDEST = 80, 160  # columns


@app.command()
def history(
    run: RunName,
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a table, for a report.")] = False,
) -> None:
    """What happened to a run, why, and who decided it; the oldest first. Changes nothing."""
    from clipctl.home import home
    from clipctl.ops import queue
    from clipctl.ops.read import logbook

    if as_json and markdown:
        raise Refused("--json and --markdown: one of them", hint=f"clipctl history {run} --json")
    view = logbook.history(home(), run, now=time.time(), queues=queue.ask(home()))
    if as_json:
        say_json(view)
    elif markdown:
        say(*_table(view))
    else:
        say(*_text(view, max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns))))


def _text(view: HistoryView, width: int) -> list[str]:
    """A line each where it fits; what does not is broken between words, below its own beginning."""
    heads = columns([_head(line) for line in view.lines], right=[1])
    margin = max(map(len, heads), default=0) + 2
    lines = [f"{view.run}: {view.state}"]
    for head, line in zip(heads, view.lines, strict=True):
        text = textwrap.wrap(_told(line), width - margin, break_long_words=False, break_on_hyphens=False) or [""]
        lines.append(f"{head.ljust(margin)}{text[0]}".rstrip())
        lines += [" " * margin + more for more in text[1:]]
    return [*lines, f"next: {view.next}"]


def _head(line: Line) -> tuple[str, str, str]:
    return _when(line), "" if line.attempt is None else str(line.attempt), clean(line.what)


def _when(line: Line) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.time))


def _told(line: Line) -> str:
    return clean(line.text) + (f" ({clean(line.actor)})" if line.actor else "")


def _table(view: HistoryView) -> list[str]:
    rows = [("when", "attempt", "what", "", "who")]
    rows += [(*_head(line), clean(line.text), clean(line.actor)) for line in view.lines]
    head, *body = (f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)
    return [f"# {view.run}: {view.state}", "", head, "|---|---|---|---|---|", *body, "", f"next: `{view.next}`"]


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")
