"""Where to go on: never damaged, never with weights that are not finite, never from after a rise."""

from __future__ import annotations

from clipctl.domain import CheckpointRecord, CheckpointState, History, Incident, IncidentKind, RecoverySpec
from clipctl.lineage import line_of, position, written
from clipctl.policy.objections import parent_objections
from trainer.contract import Parent

GONE = (CheckpointState.SUPERSEDED, CheckpointState.DAMAGED)


def parent_after(
    history: History, incident: Incident | None, recovery: RecoverySpec
) -> tuple[CheckpointRecord | Parent | None, str]:
    """Where to go on after such an end, and why there. None: from the start."""
    usable = [checkpoint for checkpoint in line_of(history) if is_usable(checkpoint, history)]
    if incident is None or incident.kind is not IncidentKind.DIVERGED:
        return (usable[0], "the newest good checkpoint") if usable else (None, "no checkpoint yet: from the start")
    finished = _finished(incident)
    why = f"epochs done: {finished}, of which the last {recovery.rollback_epochs} are given up"
    for checkpoint in usable:
        if _old_enough(checkpoint, incident, recovery):
            return checkpoint, why
    root = usable[-1] if usable and isinstance(usable[-1], Parent) else None
    return root, f"{why}: from the run's own start"


def lost_parents(history: History, incident: Incident | None, recovery: RecoverySpec) -> tuple[CheckpointRecord, ...]:
    """Those that it could have gone on from, were they not pruned or damaged: the newest first."""
    on_the_way = (item for item in written(history) if isinstance(item, CheckpointRecord))
    gone = (item for item in on_the_way if item.state in GONE and item.manifest.finite)
    return tuple(item for item in gone if _old_enough(item, incident, recovery))


def _finished(incident: Incident) -> int:
    """Epochs done before the one in which it began."""
    return max((incident.epoch or 1) - 1, 0)


def _old_enough(checkpoint: CheckpointRecord | Parent, incident: Incident | None, recovery: RecoverySpec) -> bool:
    if incident is None or incident.kind is not IncidentKind.DIVERGED:
        return True
    return position(checkpoint) <= (_finished(incident) - recovery.rollback_epochs, 0)


def is_usable(checkpoint: CheckpointRecord | Parent, history: History) -> bool:
    return not list(parent_objections(checkpoint, history))
