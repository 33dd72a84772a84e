"""watchdog: looks at every run, decides, and does what was decided. Made to be run by cron."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.cli.app import app, help_if_bare, opened
from clipctl.cli.words import clean, say

if TYPE_CHECKING:
    from clipctl.ops.tick import Outcome, Site

watchdog = typer.Typer(invoke_without_command=True, help="Let clipctl decide and act by itself.")
app.add_typer(watchdog, name="watchdog")


@watchdog.callback()
def _group(context: typer.Context) -> None:
    help_if_bare(context)


@watchdog.command()
def run(
    observe: Annotated[bool, typer.Option("--observe", help="Decide, print, and do nothing.")] = False,
) -> None:
    """Look at every run once, decide, and do what was decided."""
    from clipctl.ops.clock import SystemClock
    from clipctl.ops.tick import tick

    with opened() as store:
        outcomes = tick(_site, store=store, clock=SystemClock(), act=not observe)
    for outcome in outcomes:
        say(_line(outcome))


def _site(name: str) -> Site:
    from clipctl.backends.by_name import backend_for
    from clipctl.ops.tick import Site
    from clipctl.spec import load_cluster

    cluster = load_cluster(name)
    return Site(cluster=cluster, backend=backend_for(cluster.scheduler, cluster.limits))


def _line(outcome: Outcome) -> str:
    did = type(outcome.decision).__name__.lower()
    failed = f"; not done: {outcome.error.message}" if outcome.error else ""
    return clean(f"{outcome.run}: {did}: {outcome.decision.basis}{failed}")
