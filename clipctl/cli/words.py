"""How things are said: lines on stdout or stderr, numbers that a person reads, untrusted text made harmless."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer

from clipctl.errors import ExitStatus, Unavailable
from trainer.contract import to_jsonable


def say(*lines: str) -> None:
    """To stdout."""
    write("".join(f"{line}\n" for line in lines))


def write(text: str) -> None:
    """To stdout, at once. A reader that has enough (`| head`) ends the command, in peace; a full disk is said so."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # or Python would complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(ExitStatus.OK) from None
        raise Unavailable(f"the output cannot be written: {error.strerror}", "df -h") from error


def say_json(value: Any) -> None:
    say(json.dumps(to_jsonable(value), indent=2, allow_nan=False, default=str))


def note(line: str) -> None:
    """To stderr: for the person, not for what reads our output."""
    print(line, file=sys.stderr, flush=True)


def complain(message: str, hint: str) -> None:
    """Each problem a line, and the next command to type."""
    for line in message.splitlines() or [""]:
        note(f"error: {clean(line)}")
    if hint:
        note(f"hint: {clean(hint)}")


def clean(text: str) -> str:
    """Error texts and log lines come from nodes: on one line, and without what a terminal would obey."""
    from clipctl.joblogs import printable

    return " ".join(printable(text).split("\n"))


# --- numbers ----------------------------------------------------------------------------------------


def count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """Four digits are enough to see a loss fall."""
    return "-" if value is None else f"{value:.4g}"


def plural(number_of: int, word: str) -> str:
    return f"{number_of:,} {word}{'' if number_of == 1 else 's'}"


def rate(value: float) -> str:
    return f"{value:.3e}"


def duration(seconds: float | None) -> str:
    """`45s`, `12m05s`, `3h20m`, `13d04h`."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for unit, small, size in (("d", "h", 86_400), ("h", "m", 3_600), ("m", "s", 60)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // (size // (24 if unit == 'd' else 60)):02d}{small}"
    return f"{whole}s"


def size(count_of_bytes: int | None) -> str:
    if count_of_bytes is None:
        return "-"
    value = float(count_of_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


# --- tables -----------------------------------------------------------------------------------------


def columns(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """A table, each column as wide as its widest cell. Plain text: importing rich takes longer than status may."""
    if not rows:
        return []
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    numbers = frozenset(right)
    lines = []
    for row in rows:
        cells = (
            cell.rjust(w) if i in numbers else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return lines


def pairs(items: Iterable[tuple[str, str]], indent: str = "  ") -> list[str]:
    """`name   value` lines."""
    rows = [(name, value) for name, value in items if value]
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{indent}{name.ljust(width)}  {value}".rstrip() for name, value in rows]
