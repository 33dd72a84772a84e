"""--follow: one line that moves on a terminal, lines in a file; then how it ended. The run does not depend on it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from clipctl.cli.reading import incident_line
from clipctl.cli.words import clean, duration, note, number, say
from clipctl.domain import IncidentKind, RunState
from clipctl.errors import ExitStatus
from clipctl.home import home
from clipctl.ops import read
from clipctl.ops.clock import SystemClock
from clipctl.ops.follow import follow, last_evaluation

if TYPE_CHECKING:
    from clipctl.backends import Backend
    from clipctl.domain import JobIdentity, Limits
    from clipctl.ops.read import RunView
    from clipctl.store.writer import Store

Show = Callable[["RunView"], None]


def watch(identity: JobIdentity, limits: Limits, store: Store, backend: Backend) -> None:
    """Leaves with DIVERGED or ENDED unless the run completed."""
    try:
        with _display() as show:
            for _ in follow(identity.nonce, backend=backend, limits=limits, store=store, clock=SystemClock()):
                show(_view(identity.run))
    except KeyboardInterrupt:
        note(f"\nno longer watching; {identity.run} goes on: clipctl status {identity.run}")
        raise typer.Exit(ExitStatus.INTERRUPTED) from None
    _conclude(_view(identity.run), store, identity)


def _view(run: str) -> RunView:
    return read.run_status(home(), run, now=time.time()).runs[0]


def _conclude(run: RunView, store: Store, identity: JobIdentity) -> None:
    if run.state is RunState.COMPLETED:
        evaluation = last_evaluation(store.job(identity.nonce))
        if evaluation is not None:
            facts = evaluation.facts
            say(f"zero-shot top-1 {float(facts['top1']):.1%} on {facts.get('samples', '?')} held-out samples")
        where = f"; its last checkpoint is {run.last_checkpoint.path} in {run.folder}" if run.last_checkpoint else ""
        say(f"{run.name} has completed{where}")
        say(f"next: clipctl show {run.name} | clipctl checkpoints {run.name} --verify")
        return
    note(f"error: {run.name} {incident_line(run) or run.state}")
    for line in run.last_incident.lines if run.last_incident else ():
        note(f"  {clean(line)}")
    note(f"hint: {run.next}")
    diverged = run.last_incident is not None and run.last_incident.kind is IncidentKind.DIVERGED
    raise typer.Exit(ExitStatus.DIVERGED if diverged else ExitStatus.ENDED)


@contextmanager
def _display() -> Iterator[Show]:
    if not sys.stdout.isatty():
        yield _lines()
        return
    with _bar() as show:
        yield show


def _lines() -> Show:
    """One line for each step that is news."""
    last: list[object] = [None]

    def show(run: RunView) -> None:
        news = (run.progress.step, run.phase if run.progress.step is None else None)
        if news != last[0] and run.phase is not None:
            last[0] = news
            say(_progress_text(run))

    return show


@contextmanager
def _bar() -> Iterator[Show]:
    from rich.progress import BarColumn, Progress, TextColumn

    name, facts = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[facts]}", markup=False)
    with Progress(name, BarColumn(bar_width=20), facts) as progress:
        task = progress.add_task("starting", total=None, facts="")

        def show(run: RunView) -> None:
            at = run.progress
            whole = None if at.steps_per_epoch is None else at.steps_per_epoch * at.epochs
            progress.update(task, total=whole, completed=at.step or 0, description=run.name, facts=_progress_text(run))

        yield show


def _progress_text(run: RunView) -> str:
    at = run.progress
    fault = " REHEARSAL" if run.faults else ""
    if at.step_in_epoch is None:
        return f"{run.phase or run.state}{fault}"
    speed = "-" if at.samples_per_second is None else f"{at.samples_per_second:.0f}"
    return (
        f"epoch {at.epoch}/{at.epochs} step {at.step_in_epoch}/{at.steps_per_epoch} loss {number(at.loss)} "
        f"{speed} samples/s ETA {duration(at.eta_seconds)}{fault}"
    )
