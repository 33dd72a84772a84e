"""db: is the database what the run folders say, and make it again from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipctl.cli.app import AsJson, app, help_if_bare
from clipctl.cli.words import clean, complain, count, plural, say, say_json
from clipctl.errors import ExitStatus

database = typer.Typer(invoke_without_command=True, help="Check the database against the run folders; make it again.")
app.add_typer(database, name="db")


@database.callback()
def _group(context: typer.Context) -> None:
    help_if_bare(context)


@database.command()
def check(as_json: AsJson = False) -> None:
    """Say what differs between the database and the run folders. Changes nothing."""
    from clipctl.home import home
    from clipctl.ops import database as operation

    checked = operation.check(home())
    if as_json:
        say_json(checked)
    elif not checked.problems:
        say(f"{checked.path} says what the folders of its {plural(checked.runs, 'run')} say")
    if checked.problems:
        if not as_json:
            complain("\n".join(checked.problems), "clipctl db rebuild")
        raise typer.Exit(ExitStatus.UNAVAILABLE)


@database.command()
def rebuild(
    root: Annotated[
        list[Path] | None,
        typer.Option("--root", metavar="DIR", help="Also take in the runs below DIR/runs. May be repeated."),
    ] = None,
    into: Annotated[
        Path | None, typer.Option("--into", metavar="FILE", help="Write this file, and leave the store as it is.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the database again from the run folders. The one that is there is moved aside, never deleted."""
    from clipctl.home import home
    from clipctl.ops import database as operation
    from clipctl.ops.clock import SystemClock

    roots = [path.expanduser().absolute() for path in root or ()] or _usual_roots()
    made = operation.rebuild_database(home(), roots=roots, into=into, clock=SystemClock())
    if as_json:
        say_json(made)
    else:
        say(f"{made.path}: {', '.join(f'{count(number)} {table}' for table, number in made.counts.items())}")
        if made.aside:
            say(f"the one before is {made.aside}")
    for line in made.left_out:
        complain(f"left out: {clean(line)}", "")
    if made.left_out:
        raise typer.Exit(ExitStatus.UNAVAILABLE)


def _usual_roots() -> list[Path]:
    """Where nothing names the runs any more: the home's own, and those of the cluster profiles."""
    from clipctl.home import home
    from clipctl.presets import cluster_names
    from clipctl.spec import load_cluster
    from clipctl.store.home import known_folders

    if known_folders(home()):
        return []
    profiles = [load_cluster(name).root for name in cluster_names()]
    return list(dict.fromkeys([home(), *(path for path in profiles if path is not None)]))
