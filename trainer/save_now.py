"""`clipctl save-now` as rank 0 sees it: a small file that says how often a checkpoint was asked for."""

from __future__ import annotations

import threading
from pathlib import Path

from trainer.contract import EVENTS_FILE, SAVE_FILE, Event, EventKind, SaveNow, loads

LOOK_EVERY = 2.0  # seconds


class SaveRequests:
    """`newest` is the number of the newest request, 0 without one.

    A thread looks for it: training never waits for a disk, and no step pays for a look.
    """

    def __init__(self, folder: Path) -> None:
        self.newest = 0
        self._path = folder / SAVE_FILE
        self._over = threading.Event()

    def watch(self) -> None:
        threading.Thread(target=self._watch, name="save-now", daemon=True).start()

    def close(self) -> None:
        """Not waited for: the file system may hang."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.is_set():
            self._look()
            self._over.wait(LOOK_EVERY)

    def _look(self) -> None:
        self.newest = max(self.newest, _number(self._path))


def _number(path: Path) -> int:
    try:
        return loads(SaveNow, path.read_bytes()).number
    except (OSError, ValueError):  # no request, or none that can be read now
        return 0


def served(folder: Path) -> int:
    """The newest request that this attempt has a checkpoint for: its site may have started the job again."""
    if not (folder / SAVE_FILE).exists() or not (folder / EVENTS_FILE).exists():
        return 0
    newest = 0
    for line in (folder / EVENTS_FILE).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = loads(Event, line)
        except ValueError:
            continue
        number = event.facts.get("request") if event.kind == EventKind.CHECKPOINT else None
        newest = max(newest, number) if isinstance(number, int) else newest
    return newest
