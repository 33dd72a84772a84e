"""The command line. Each command parses, calls one operation and prints; slow imports are made there."""

from __future__ import annotations

import os
import sys

import typer

from clipctl.cli import reading, resuming, specs, starting, stopping  # noqa: F401  each adds its commands to the app
from clipctl.cli.app import app
from clipctl.cli.words import clean, complain
from clipctl.errors import ClipctlError, ExitStatus


def main() -> None:
    """Leaves with a code of `clipctl.errors.ExitStatus`. A traceback means a bug."""
    sys.exit(_run())


def _run() -> int:
    try:
        status = app(prog_name="clipctl", standalone_mode=False)
        sys.stdout.flush()
        return int(status or ExitStatus.OK)
    except ClipctlError as error:
        complain(error.message, error.hint)
        return error.exit_code
    except typer.TyperException as error:  # a wrong command line
        complain(clean(error.format_message()), "clipctl --help")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print(file=sys.stderr)
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:  # `clipctl status | head`: Python must not complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.OK
