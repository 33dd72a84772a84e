"""The Typer app that every command joins, and what commands have in common."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from clipctl import __version__
from clipctl.cli.words import note
from clipctl.errors import ExitStatus

if TYPE_CHECKING:
    from clipctl.backends import Backend
    from clipctl.spec import Cluster
    from clipctl.store.writer import Store

app = typer.Typer(
    name="clipctl",
    help="Launch, watch and recover very large CLIP training runs.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"clipctl {__version__}")
        raise typer.Exit()


def help_if_bare(context: typer.Context) -> None:
    """A group of commands without one of them: what there is, and the code of a wrong command line."""
    if context.invoked_subcommand is None:
        note(context.get_help())
        raise typer.Exit(ExitStatus.USAGE)


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    help_if_bare(context)


# --- completion -------------------------------------------------------------------------------------


def complete_run(incomplete: str) -> list[str]:
    from clipctl.errors import ClipctlError
    from clipctl.home import home
    from clipctl.ops import read

    try:
        return [name for name in read.run_names(home()) if name.startswith(incomplete)]
    except ClipctlError:
        return []


def complete_preset(incomplete: str) -> list[str]:
    from clipctl.presets import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


def complete_cluster(incomplete: str) -> list[str]:
    from clipctl.presets import cluster_names

    return [name for name in cluster_names() if name.startswith(incomplete)]


# --- parameters that several commands have -----------------------------------------------------------

RunName = Annotated[str, typer.Argument(metavar="RUN", autocompletion=complete_run, help="The run's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with a schema number.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value, such as train.optim.lr=5e-4. May be repeated."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]
Follow = Annotated[bool, typer.Option("--follow", help="Watch it to its end. Ctrl-C stops watching, not the run.")]


# --- what commands work with --------------------------------------------------------------------------


def actor() -> str:
    """Who decides, for the record."""
    return getpass.getuser()


@contextmanager
def opened() -> Iterator[Store]:
    from clipctl.home import home
    from clipctl.store import open_store

    with open_store(home()) as store:
        yield store


def site_of(store: Store, run: str) -> tuple[Backend, Cluster]:
    from clipctl.backends.by_name import backend_for
    from clipctl.spec import load_cluster

    cluster = load_cluster(store.run(run).cluster)
    return backend_for(cluster.scheduler, cluster.limits), cluster


def looked_at(store: Store, run: str) -> Backend:
    """The run's backend, after one look at its newest job, and at the one that stands by: what is decided next is
    decided on fresh facts.

    Unavailable: what its nodes wrote cannot be read.
    """
    from clipctl.errors import Unavailable
    from clipctl.ops import standby
    from clipctl.ops.clock import SystemClock
    from clipctl.ops.observe import observe

    backend, cluster = site_of(store, run)
    job = store.newest_job(run)
    try:
        observe([job], backend=backend, limits=cluster.limits, store=store, clock=SystemClock())
    except OSError as error:
        raise Unavailable(f"{error.filename or job.folder}: {error.strerror}", f"ls -l {job.folder}") from error
    standby.look(run, standby.Place(store=store, cluster=cluster, backend=backend, clock=SystemClock()))
    return backend


def confirmed(question: str, yes: bool) -> bool:
    """Refused: there is nobody to ask."""
    from clipctl.errors import Refused

    if yes:
        return True
    if not sys.stdin.isatty():
        raise Refused("there is no terminal to ask on", hint="add -y")
    return typer.confirm(question)
