"""What became of one attempt, or troubles it: an Incident from Evidence. Pure; repetition is policy's business.

The order of belief is the trainer's final event, then the scheduler's verdict, then the exit code, then silence, and
what a log prints last of all. Slurm's COMPLETED is not "training finished", and its FAILED may be a preemption whose
grace signal ended the script.
"""

from __future__ import annotations

from clipctl.diagnose.causes import nodes_named
from clipctl.diagnose.divergence import not_finite, risen
from clipctl.diagnose.ending import cancelled, gone, how_it_ended, is_over, verdict
from clipctl.diagnose.signs import early_signs
from clipctl.diagnose.trouble import hung, never_runnable, slow, unsaved
from clipctl.domain import CANCELS, Evidence, Incident, Limits
from trainer.contract import EventKind

__all__ = ["diagnose", "early_signs", "gone", "nodes_named"]


def diagnose(evidence: Evidence, limits: Limits, *, now: float) -> Incident | None:
    """None: completed, alive and well, or not known well enough to say. `now` in seconds, as in `missing_since`."""
    if evidence.diverged is not None:  # before the final event: a script that was killed afterwards changes nothing
        return not_finite(evidence, evidence.diverged, limits)
    if evidence.final is not None and evidence.final.kind == EventKind.COMPLETED:
        return None
    if not is_over(evidence, limits, now):
        return _trouble(evidence, limits)
    if evidence.cancel_requested:
        return cancelled(evidence)
    if evidence.stop_requested:
        return None  # why is known already; that it was scancelled says nothing
    found = verdict(evidence)
    if found is not None and found.kind in CANCELS:
        return how_it_ended(evidence, found, now)
    return risen(evidence, limits, alive=False) or how_it_ended(evidence, found, now)


def _trouble(evidence: Evidence, limits: Limits) -> Incident | None:
    """Of a job that goes on. Who hangs on a plateau has diverged: its newest checkpoint would not help."""
    return (
        risen(evidence, limits, alive=True)
        or hung(evidence, limits)
        or never_runnable(evidence)
        or unsaved(evidence)
        or slow(evidence, limits)
    )
