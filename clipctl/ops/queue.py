"""One question to the schedulers of whatever may live, for commands that only look. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path

from clipctl.backends.local import LocalBackend
from clipctl.domain import QueueSnapshot, Unobservable
from clipctl.ops import read


def ask(home: Path) -> QueueSnapshot | Unobservable | None:
    """None: nothing in the store may live, so there was nothing to ask. Jobs are local ones in this version."""
    live = read.jobs_live(home)
    if not live:
        return None
    return LocalBackend().poll([job.identity for _, job in live])
