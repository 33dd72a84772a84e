"""What the job script leaves with: `python -P -m trainer.outcome ATTEMPT_FOLDER CODE`, CODE being the ranks'.

The trainer's final event decides: a run can complete and then lose a rank while it tears down.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from trainer.contract import EVENTS_FILE, FINAL_EVENTS, EventKind, ExitCode

TAIL = 64 * 1024  # bytes; a final event is the last line, or nearly
SUBMITIT_RESTARTS_ON = 144  # its local executor takes this for a request to run the job again

CODES = {
    EventKind.COMPLETED: ExitCode.COMPLETED,
    EventKind.STOPPED: ExitCode.STOPPED,
    EventKind.DIVERGED: ExitCode.DIVERGED,
}


def main(arguments: list[str]) -> int:
    folder, code = arguments
    return verdict(last_word(Path(folder)), int(code))


def verdict(word: EventKind | None, code: int) -> int:
    """The exit code for a final event, or the ranks' own where there is none."""
    if word in CODES:
        return CODES[word]
    told = code == ExitCode.REFUSED or code > 128  # says more about a crash than its event: not ours, or a signal
    if code == SUBMITIT_RESTARTS_ON or (word == EventKind.CRASHED and not told):
        return ExitCode.CRASHED
    return code


def last_word(folder: Path) -> EventKind | None:
    """The final event of the attempt's last start; None where it has none."""
    event = last_event(folder)
    return None if event is None else EventKind(event["kind"])


def last_event(folder: Path) -> dict[str, Any] | None:
    """The same with all that it says."""
    word = None
    for event in map(_event, _tail(folder / EVENTS_FILE)):
        kind = event.get("kind")
        if kind in FINAL_EVENTS:
            word = event
        elif kind == EventKind.STARTED:  # again, in an allocation that goes on
            word = None
    return word


def _tail(path: Path) -> list[bytes]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:  # torn, or cut by the tail's border
        return {}
    return event if isinstance(event, dict) and isinstance(event.get("kind"), str) else {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
