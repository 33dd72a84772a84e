"""adopt: a run that open_clip_train began goes on as one of ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.cli.app import AsJson, DryRun, Sets, actor, app, complete_cluster, opened
from clipctl.cli.words import clean, count, note, pairs, plural, say, say_json, size

if TYPE_CHECKING:
    from clipctl.ops.adopt import Plan, Tell


@app.command()
def adopt(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where its params.txt lies.")],
    name: Annotated[str | None, typer.Option("--name", help="The run's name; else the folder's.")] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", autocompletion=complete_cluster, help="Where it goes on.")
    ] = None,
    sets: Sets = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="OPTION", help="Leave out this option of params.txt. May be repeated."),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take over an experiment of open_clip_train's as a run, with its history. Starts nothing: resume does."""
    from clipctl.home import home
    from clipctl.ops import adopt as operation, read
    from clipctl.ops.clock import SystemClock
    from clipctl.ops.launch import cluster_here

    wish = operation.Wish(name=name, cluster=cluster, sets=sets or (), without=without or ())
    operation.refuse_taken(folder, wish, read.run_names(home()))
    with _progress(as_json) as tell:
        plan = operation.plan(folder, wish, fallback=cluster_here, tell=tell, clock=SystemClock())
    if not as_json:
        say(*_plan_lines(plan))
    for line in (*plan.left_out, *plan.notes):
        note(clean(line))
    if dry_run:
        return
    with opened() as store:
        adopted = operation.adopt(plan, actor=actor(), store=store, clock=SystemClock())
    if as_json:
        say_json(adopted)
        return
    say(
        f"{adopted.run}: taken over, {adopted.state}; its checkpoints are {clean(adopted.linked)}",
        f"next: clipctl status {adopted.run} | {adopted.next}",
    )


@contextmanager
def _progress(quiet: bool) -> Iterator[Tell]:
    """A bar on stderr where that is a terminal: every byte of every checkpoint is read twice."""
    if quiet or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    parts = TextColumn("{task.description}"), BarColumn(bar_width=20), DownloadColumn(), TimeRemainingColumn()
    with Progress(*parts, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("checkpoints", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _plan_lines(plan: Plan) -> list[str]:
    spec, incident = plan.spec, plan.incident
    train, last = spec.train, list(plan.checkpoints.values())[-1]
    ended = "completed" if plan.completed else f"{incident.kind}: {clean(incident.detail)}" if incident else "-"
    files = plural(len(plan.checkpoints), "checkpoint")
    total = size(sum(manifest.size for manifest in plan.checkpoints.values()))
    spoilt = sum(not manifest.finite for manifest in plan.checkpoints.values())
    passes = f" x {train.accum_freq} forward passes" if train.accum_freq > 1 else ""
    return [
        f"adopt {spec.name} on {spec.cluster}",
        *pairs(
            [
                ("from", str(plan.source)),
                ("model", f"{train.model}, {train.precision}"),
                ("batch", f"{spec.ranks} ranks x {train.batch_size}{passes}"),
                (
                    "length",
                    f"{last.epochs_done} of {plural(train.epochs, 'epoch')}, {count(last.samples_seen)} samples",
                ),
                ("ended", ended),
                ("files", f"{files}, {total}" + (f"; weights are not finite in {spoilt} of them" if spoilt else "")),
                ("folder", str(plan.folder.path)),
            ]
        ),
    ]
