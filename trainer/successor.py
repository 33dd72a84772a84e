"""May a job that stood by in the queue go on where the attempt before it ended? Asked by its claim.

It may after "stopped with a checkpoint", wall time or preemption, and only where that is known. After anything else,
and where nobody says, policy decides first: the settings or the checkpoint may be what is wrong.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

from trainer.contract import EXIT_FILE, EventKind, Exit, loads
from trainer.outcome import last_event

INTERRUPTED = frozenset({"PREEMPTED", "TIMEOUT"})
# Whatever was saved: somebody or something ended it on purpose, or it may start again by itself.
AGAINST = frozenset({"CANCELLED", "DEADLINE", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "REVOKED", "PENDING"})
_PREEMPT_TIME = re.compile(r"\bPreemptTime=\d")  # PreemptTime=None where it was not


def objection(attempt: Path, job: Path, state: str) -> str:
    """Why not, in words; empty: it may. `attempt`, `job`: folders of the one before. `state`: the scheduler's word on
    that job, empty where it has forgotten or does not say."""
    event = last_event(attempt)
    word = None if event is None else event["kind"]
    if word not in (None, EventKind.STOPPED):
        return f"has {word}"
    if state in INTERRUPTED or _preempted(job):
        return ""
    if state in AGAINST:
        return f"ended as {state}"
    if event is None:
        return f"ended without a word{f' ({state})' if state else ''}"
    if not state and event.get("signal") != signal.SIGUSR1:  # a scancel sends TERM; USR1 is the warning of wall time
        return f"was stopped by signal {event.get('signal')}, and the scheduler does not say why"
    return ""


def _preempted(job: Path) -> bool:
    try:
        left = loads(Exit, (job / EXIT_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return _PREEMPT_TIME.search(left.scheduler) is not None
