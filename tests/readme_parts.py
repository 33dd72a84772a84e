"""The parts of README.md that come from the code: `python -m tests.readme_parts --write` (or `make docs`)."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import typer

from clipctl.cli import app
from clipctl.errors import ExitStatus
from trainer.contract import ExitCode

README = Path(__file__).parents[1] / "README.md"
WIDTH = 100
PLAIN = {  # members that need no comment in the code
    "OK": "done",
    "BUG": "a bug in clipctl, with its traceback",
    "USAGE": "a wrong command line",
    "INTERRUPTED": "Ctrl-C; with `--follow` the run goes on",
    "COMPLETED": "all epochs are done",
    "CRASHED": "an error, with its traceback in the rank's log",
}


def exit_codes(codes: type[IntEnum]) -> str:
    """A table of codes, what they are called and the comment beside each in the code."""
    comments = dict(re.findall(r"^    (\w+) = \d+  # (.+)$", inspect.getsource(codes), re.MULTILINE))
    rows = [f"| {code.value} | {code.name.lower()} | {comments.get(code.name) or PLAIN[code.name]} |" for code in codes]
    return "\n".join(["| code | name | when |", "|---:|---|---|", *rows])


def commands(command: Any, name: str, parent: Any = None) -> Iterator[str]:
    """`--help` of a command and of all below it, as a terminal of WIDTH columns shows it."""
    settings = command.context_settings | {"terminal_width": WIDTH}
    context = command.context_class(command, info_name=name, parent=parent, **settings)
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield f"### {context.command_path}\n\n```text\n{text}\n```"
    for child_name, child in getattr(command, "commands", {}).items():
        yield from commands(child, child_name, context)


def cli() -> str:
    return "\n\n".join(commands(typer.main.get_command(app), "clipctl"))


def parts() -> dict[str, str]:
    return {"exit-status": exit_codes(ExitStatus), "exit-code": exit_codes(ExitCode), "cli": cli()}


def written(text: str) -> str:
    """README.md with each part between its markers."""
    for name, part in parts().items():
        begin, end = f"<!-- {name}: written by `make docs` -->", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not found or not ended:
            raise SystemExit(f"README.md lacks the markers of {name}")
        text = f"{before}{begin}\n{part}\n{end}{after}"
    return text


if __name__ == "__main__":
    old = README.read_text(encoding="utf-8")
    new = written(old)
    if "--write" in sys.argv[1:]:
        README.write_text(new, encoding="utf-8")
    sys.exit(0 if "--write" in sys.argv[1:] or old == new else "README.md is behind the code: make docs")
