"""The command line. Each command parses, calls one operation and prints; slow imports are made there."""

from __future__ import annotations

import os
import sys

import typer

from clipctl.cli import (  # noqa: F401  each adds its commands to the app
    adopting,
    database,
    evaluating,
    examining,
    logbook,
    policy,
    reading,
    resuming,
    shards,
    specs,
    starting,
    stopping,
    watchdog,
)
from clipctl.cli.app import app
from clipctl.cli.words import clean, complain, write
from clipctl.errors import ClipctlError, ExitStatus


def main() -> None:
    """Leaves with a code of `clipctl.errors.ExitStatus`. A traceback means a bug."""
    _prepare_streams()
    sys.exit(_run())


def _prepare_streams() -> None:
    """Started with closed streams, as cron and daemons may, the first files we open would take their numbers.

    Where the locale knows no more than ASCII, what it cannot say becomes a question mark.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - to the end of the process
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def _run() -> int:
    try:
        status = app(prog_name="clipctl", standalone_mode=False)
        write("")
        return int(status or ExitStatus.OK)
    except ClipctlError as error:
        complain(error.message, error.hint)
        return error.exit_code
    except typer.TyperException as error:  # a wrong command line
        context = getattr(error, "ctx", None)
        complain(clean(error.format_message()), f"{context.command_path if context else 'clipctl'} --help")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print(file=sys.stderr)
        return ExitStatus.INTERRUPTED
