"""A user's table of cron, or Slurm's scrontab: one block of ours in it, every other byte as it was."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from clipctl.errors import Refused, Unavailable

TIMEOUT = 30.0  # seconds
EMPTY = "no crontab for"  # cron's and Slurm's word for a table that is not there


def with_block(text: str, home: Path, lines: Sequence[str]) -> str:
    """`text` with the block of this store at its end, or where it was."""
    begin, end = _marks(home)
    block = "".join(f"{line}\n" for line in (begin, *lines, end))
    before, found, rest = text.partition(f"{begin}\n")
    if not found:
        return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{block}"
    return before + block + rest.partition(f"{end}\n")[2]


def without_block(text: str, home: Path) -> str:
    begin, end = _marks(home)
    before, found, rest = text.partition(f"{begin}\n")
    return before + rest.partition(f"{end}\n")[2] if found else text


def has_block(text: str, home: Path) -> bool:
    return f"{_marks(home)[0]}\n" in text


def _marks(home: Path) -> tuple[str, str]:
    return f"# clipctl watchdog of {home}", f"# end of clipctl watchdog of {home}"


# --- the table itself -------------------------------------------------------------------------------


def read(program: str) -> str:
    """The table of `crontab` or `scrontab`. Unavailable: it cannot be told, which is never the same as an empty one."""
    answer = _run(program, "-l")
    if answer.returncode == 0:
        return _text(answer.stdout)
    said = _text(answer.stderr).strip()
    if said.startswith(EMPTY):
        return ""
    raise Unavailable(f"{program} -l: {said or f'left with code {answer.returncode}'}", hint=f"{program} -l")


def write(program: str, text: str) -> None:
    """Refused: it was not taken, for a reason that the program gives; nothing has changed then."""
    if not text:
        answer = _run(program, "-r")
    else:
        with tempfile.NamedTemporaryFile("wb", prefix="clipctl-") as file:
            file.write(text.encode("utf-8", errors="surrogateescape"))
            file.flush()
            answer = _run(program, file.name)
    if answer.returncode != 0:
        said = _text(answer.stderr).strip()
        raise Refused(f"{program}: {said or f'left with code {answer.returncode}'}", hint=f"{program} -l")


def _text(raw: bytes) -> str:
    """Other people's lines may be of any encoding."""
    return raw.decode("utf-8", errors="surrogateescape")


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environ = os.environ | {"LC_ALL": "C"}
    try:
        return subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, env=environ, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{program} did not answer within {TIMEOUT:g} s", hint=f"{program} -l") from error
    except OSError as error:
        raise Unavailable(f"{program}: {error.strerror}", hint=_instead(program)) from error


def _instead(program: str) -> str:
    loop = "clipctl watchdog run --loop 60  # in tmux"
    return f"clipctl watchdog install --scrontab, or {loop}" if program == "crontab" else loop
