"""watchdog: looks at every run, decides, and does what was decided. Made to be run by cron."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipctl.cli.app import AsJson, app, help_if_bare, opened
from clipctl.cli.words import clean, duration, note, pairs, plural, say, say_json
from clipctl.errors import ClipctlError, ExitStatus
from clipctl.home import home

if TYPE_CHECKING:
    from clipctl.ops.read import WatchdogView
    from clipctl.ops.tick import Report, Site
    from clipctl.store.lease import Closed

watchdog = typer.Typer(invoke_without_command=True, help="Let clipctl decide and act by itself.")
app.add_typer(watchdog, name="watchdog")


@watchdog.callback()
def _group(context: typer.Context) -> None:
    help_if_bare(context)


@watchdog.command()
def run(
    observe: Annotated[bool, typer.Option("--observe", help="Decide, print, and do nothing.")] = False,
    loop: Annotated[
        float | None,
        typer.Option("--loop", metavar="SECONDS", min=1.0, help="Again and again, until TERM or Ctrl-C."),
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Become the watchdog in place of another host that is gone for good.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also say what goes on as before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at every run once, decide, and do what was decided.

    Says nothing where nothing happened. Leaves with 0: all was seen; 6: something could not be observed, the next tick
    may; 9: a person is needed. Where another process is at it, or another host is the watchdog, it leaves at once.
    """
    if observe:
        report = _observed()
        _say(report, verbose=True, as_json=as_json)
        raise typer.Exit(_status(report))
    every = loop if loop is not None else _every()
    if loop is None:
        with _to_its_end():
            status = _tick(take_over, every, verbose or sys.stdout.isatty(), as_json)
        raise typer.Exit(status)
    _again_and_again(loop, take_over, verbose, as_json)


def _observed() -> Report:
    from clipctl.ops.clock import SystemClock
    from clipctl.ops.tick import tick

    with opened() as store:
        return tick(_site, store=store, clock=SystemClock(), act=False)


def _every() -> float | None:
    from clipctl.store.ticks import installed

    told = installed(home())
    return told.every if told else None


def _tick(take_over: bool, every: float | None, verbose: bool, as_json: bool) -> ExitStatus:
    from clipctl.store.lease import Closed, take

    lease = take(home(), take_over=take_over, every=every)
    if isinstance(lease, Closed):
        return _closed(lease, verbose, as_json)
    from clipctl.ops.clock import SystemClock
    from clipctl.ops.tick import watch  # the ORM is slow to import, and most of two watchdogs' calls end above

    report = watch(lease, _site, home=home(), clock=SystemClock())
    _say(report, verbose=verbose, as_json=as_json)
    return _status(report)


def _again_and_again(seconds: float, take_over: bool, verbose: bool, as_json: bool) -> None:
    """What one tick cannot reach the next one may."""
    with _to_its_end() as asked:
        while not asked.is_set():
            started = time.monotonic()
            try:
                _tick(take_over, seconds, verbose, as_json)
            except ClipctlError as error:
                note(_stamped(f"{error.message}; hint: {error.hint}"))
            take_over = False  # once
            asked.wait(max(0.0, seconds - (time.monotonic() - started)))


@contextmanager
def _to_its_end() -> Iterator[threading.Event]:
    """A tick is not broken off between a decision and what follows from it: TERM and Ctrl-C set the event, no more."""
    asked = threading.Event()
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@watchdog.command()
def install(
    every: Annotated[int, typer.Option("--every", metavar="MINUTES", min=1, max=30, help="From tick to tick.")] = 5,
    scrontab: Annotated[bool, typer.Option("--scrontab", help="Slurm's, where there is no crontab.")] = False,
    scron: Annotated[
        list[str] | None,
        typer.Option("--scron", metavar="OPTION", help="For --scrontab, such as --scron=--account=NAME. Repeatable."),
    ] = None,
) -> None:
    """Let cron run the watchdog. All other lines of the crontab stay as they are."""
    from clipctl.ops import cron
    from clipctl.ops.clock import SystemClock

    program = cron.SCRONTAB if scrontab else cron.CRONTAB
    told = cron.install(
        home(), every=every, program=program, options=scron or (), environ=os.environ, clock=SystemClock()
    )
    say(f"the {told.where} of {told.host} runs {cron.script_of(home())} every {plural(every, 'minute')}")
    say(f"next: clipctl watchdog status, in {plural(every, 'minute')}")


@watchdog.command()
def uninstall() -> None:
    """Take the watchdog out of cron. A tick that is under way comes to its end."""
    from clipctl.ops import cron

    say("cron does not run the watchdog any more" if cron.uninstall(home()) else "cron did not run the watchdog")


@watchdog.command()
def status(as_json: AsJson = False) -> None:
    """Who watches, and what the last tick saw."""
    from clipctl.ops import read

    view = read.watchdog(home(), now=time.time())
    if as_json:
        return say_json(view)
    say(*_standing(view))


def _standing(view: WatchdogView) -> list[str]:
    last, told = view.last, view.installed
    minutes = f"every {told.every / 60:.0f} min by the {told.where} of {told.host}" if told else ""
    silent = [f"{name} since {_clock(since)}" for name, since in view.silent.items()]
    lines = pairs(
        [
            ("owner", view.owner or "none yet: clipctl watchdog install"),
            ("runs", minutes or "only when a person starts it: clipctl watchdog install"),
            ("now", f"process {view.pid} is in its tick" if view.ticking else ""),
            ("last tick", f"{_clock(last.at)}, {duration(max(0.0, view.time - last.at))} ago" if last else "none yet"),
            ("it saw", f"{plural(last.runs, 'run')}, {last.held} held, in {last.took:.1f} s" if last else ""),
            ("silent", "; ".join(silent)),
            ("log", view.log if told else ""),
        ]
    )
    lines += [f"    {clean(line)}" for line in (last.said if last else ())]
    if view.late is not None:
        lines.append(f"  NOBODY WATCHES: no tick for {duration(view.late)}")
    return lines


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _site(name: str) -> Site:
    from clipctl.backends.by_name import backend_for
    from clipctl.ops.tick import Site
    from clipctl.spec import load_cluster

    cluster = load_cluster(name)
    return Site(cluster=cluster, backend=backend_for(cluster.scheduler, cluster.limits))


# --- what is said -----------------------------------------------------------------------------------


def _status(report: Report) -> ExitStatus:
    if report.needs_a_person:
        return ExitStatus.NEEDED
    return ExitStatus.UNAVAILABLE if report.unseen else ExitStatus.OK


def _say(report: Report, *, verbose: bool, as_json: bool) -> None:
    if as_json:
        return say_json(_as_json(report))
    lines = [*report.lines, *(report.quiet_lines if verbose else ())]
    say(*(_stamped(line) for line in lines))


def _as_json(report: Report) -> dict[str, Any]:
    from trainer.contract import SCHEMA

    runs = [
        {
            "run": outcome.run,
            "decision": type(outcome.decision).__name__.lower(),
            "basis": outcome.decision.basis,
            "incident": outcome.incident,
            "unobservable": outcome.unobservable,
            "error": outcome.error.message if outcome.error else "",
            "notes": outcome.notes,
        }
        for outcome in report.outcomes
    ]
    status = _status(report)
    return {"schema": SCHEMA, "status": status, "held": report.held, "silent": report.silent, "runs": runs}


def _stamped(line: str) -> str:
    """For a log: when it was."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {clean(line)}"


def _closed(closed: Closed, verbose: bool, as_json: bool) -> ExitStatus:
    """Not this process's turn. That is usual, and nothing to talk about, but where the other one is stuck."""
    from clipctl.store.lease import Standing
    from trainer.contract import SCHEMA

    holder, silent = closed.term.holder, duration(closed.silent_for)
    if closed.standing is Standing.STUCK:
        what = f"process {holder.pid} has been in its tick without a sign of life for {silent}: kill -9 {holder.pid}"
    elif closed.standing is Standing.BUSY:
        what = f"process {holder.pid} is at it"
    else:
        what = f"{holder.host} is the watchdog, unchanged here for {silent}: clipctl watchdog run --take-over"
    stuck = closed.standing is Standing.STUCK
    if as_json:
        say_json({"schema": SCHEMA, "standing": closed.standing, "holder": holder, "silent_for": closed.silent_for})
    elif stuck or verbose:
        say(_stamped(what))
    return ExitStatus.NEEDED if stuck else ExitStatus.OK
