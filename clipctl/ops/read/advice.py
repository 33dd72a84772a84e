"""The next command to type: for a run that ended, what policy would do, spelled out."""

from __future__ import annotations

import shlex
from dataclasses import replace

from clipctl.domain import CheckpointRecord, History, Hold, IncidentKind, RecoverySpec, Remedy, Resubmit, RunState

_NEXT = {
    RunState.QUEUED: "clipctl logs {run} -f",
    RunState.RUNNING: "clipctl logs {run} -f",
    RunState.UNKNOWN: "clipctl resume {run}",
    RunState.STOPPED: "clipctl resume {run}",
    RunState.HELD: "clipctl release {run}",
    RunState.CANCELLED: "clipctl resume {run} --force cancelled",
    RunState.COMPLETED: "clipctl show {run}",
}


def plain(run: str, state: RunState) -> str:
    """Without a look at how it ended: a plain resume finds the remedy itself."""
    return _NEXT[state].format(run=run)


def after_divergence(history: History, recovery: RecoverySpec, *, now: float) -> str:
    """The remedy that policy would choose, as a command. `history` says STOPPED and has the incident."""
    incident = history.attempts[-1].incident
    if incident is None or incident.kind is not IncidentKind.DIVERGED:
        return plain(history.run, history.state)
    from clipctl.policy import decide  # most looks at a store need no advice

    attempts = tuple(replace(attempt, adopted=False) for attempt in history.attempts)  # a person reads it, and types
    decision = decide(replace(history, attempts=attempts), incident, recovery, now=now)
    if isinstance(decision, Resubmit) and decision.remedy.patch.keys() <= {"train.precision"}:
        return f"clipctl resume {history.run}{_flags(decision.remedy)}"
    return f"clipctl show {history.run}" if isinstance(decision, Hold) else plain(history.run, history.state)


def _flags(remedy: Remedy) -> str:
    precision = remedy.patch.get("train.precision")
    return _from(remedy) + (f" --precision {precision}" if precision else "")


def _from(remedy: Remedy) -> str:
    """`--epoch N` restarts with the Nth epoch: from the file that was written when N - 1 were done."""
    parent = remedy.parent
    if parent is None:
        return " --epoch 1"
    if not isinstance(parent, CheckpointRecord) or parent.manifest.step_in_epoch:
        return f" --checkpoint {shlex.quote(parent.path)}"
    return f" --epoch {parent.manifest.epochs_done + 1}"
