"""How a run goes on: a Decision from its History. Ordered rules; the first that applies is chosen, with its basis."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from clipctl.diagnose import diagnose
from clipctl.domain import (
    CANCELS,
    AttemptRecord,
    CheckpointRecord,
    CheckpointState,
    Complete,
    Decision,
    Evidence,
    History,
    Hold,
    Incident,
    IncidentKind,
    Limits,
    Objection,
    RecoverySpec,
    Remedy,
    Resubmit,
    RunState,
    Wait,
)
from clipctl.lineage import line_of, position
from trainer.contract import Parent, Precision

# What of a TrainSpec makes a difference to the numbers. The data's tolerance, evaluation, saving and logging do not.
_NUMERICS = ("engine", "model", "precision", "tf32", "batch_size", "epochs", "seed", "optim", "loss", "faults")
_DATA_ORDER = ("train_data", "train_num_samples", "dataset_resampled", "workers")


def settings_digest(train: Mapping[str, Any], ranks: int) -> str:
    """Of a TrainSpec as JSON: equal for two attempts whose steps from one checkpoint would be the same."""
    settings = {name: train.get(name) for name in _NUMERICS}
    settings |= {name: train.get("data", {}).get(name) for name in _DATA_ORDER} | {"ranks": ranks}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


# --- step -------------------------------------------------------------------------------------------


def step(
    history: History, evidence: Evidence | None, limits: Limits, recovery: RecoverySpec, *, now: float
) -> tuple[Incident | None, Decision]:
    """One look at a run: what its newest attempt's evidence says, and what follows from that and all before.

    `evidence`: None where no job of it is watched; the incident is the one that is known.
    """
    seen = None if evidence is None else diagnose(evidence, limits, now=now)
    if seen is not None:
        newest = replace(history.attempts[-1], incident=seen)
        history = replace(history, attempts=(*history.attempts[:-1], newest))
    return seen, decide(history, history.attempts[-1].incident, recovery, now=now)


# --- decide -----------------------------------------------------------------------------------------


def decide(history: History, incident: Incident | None, recovery: RecoverySpec, *, now: float) -> Decision:
    """`incident` is the newest attempt's. `now` is when this is decided; no rule of today looks at it."""
    live = next((attempt for attempt in history.attempts if attempt.live), None)
    if live is not None:
        return Wait(basis=f"a job of attempt {live.number} may be alive")
    if history.state is RunState.COMPLETED:
        return Complete(basis="the run has completed")
    if history.state is RunState.HELD:
        return Hold(basis=history.hold_reason or "held by a person")
    if history.state is RunState.CANCELLED:
        return Hold(basis="a person's cancel is final")
    if incident is None:
        return Wait(basis="how the newest attempt ended is not known yet")
    if incident.kind in CANCELS:
        return Hold(basis=f"{_words(incident.kind)}: {incident.detail}")
    if incident.kind is IncidentKind.DIVERGED:
        return _after_divergence(history, incident, recovery)
    return _after_another_end(history, incident, recovery)


def _after_divergence(history: History, incident: Incident, recovery: RecoverySpec) -> Decision:
    current = _precision(history.attempts[-1])
    parent, why = parent_after(history, incident, recovery)
    for precision in _next_precisions(recovery, current):
        remedy = Remedy(parent=parent, patch={"train.precision": str(precision)})
        if not objections(remedy, history):
            return Resubmit(remedy=remedy, basis=f"{_onset(incident)}; {why}; {precision} comes after {current}")
    ladder = " -> ".join(recovery.precision_ladder)
    return Hold(basis=f"{_onset(incident)}; after {current} the ladder {ladder} has no precision left to try")


def _after_another_end(history: History, incident: Incident, recovery: RecoverySpec) -> Decision:
    parent, why = parent_after(history, incident, recovery)
    remedy = Remedy(parent=parent)
    refused = objections(remedy, history)
    if refused:
        return Hold(basis=f"{_words(incident.kind)}; {refused[0].text}")
    return Resubmit(remedy=remedy, basis=f"{_words(incident.kind)}; {why}, same settings")


def _words(kind: IncidentKind) -> str:
    return kind.replace("_", " ")


def _next_precisions(recovery: RecoverySpec, current: Precision) -> tuple[Precision, ...]:
    ladder = recovery.precision_ladder
    return ladder[ladder.index(current) + 1 :] if current in ladder else ()


def parent_after(
    history: History, incident: Incident | None, recovery: RecoverySpec
) -> tuple[CheckpointRecord | Parent | None, str]:
    """Where to go on after such an end, and why there. None: from the start."""
    usable = [checkpoint for checkpoint in line_of(history) if _is_usable(checkpoint, history)]
    if incident is None or incident.kind is not IncidentKind.DIVERGED:
        return (usable[0], "the newest good checkpoint") if usable else (None, "no checkpoint yet: from the start")
    finished = max((incident.epoch or 1) - 1, 0)
    why = f"epochs done: {finished}, of which the last {recovery.rollback_epochs} are given up"
    for checkpoint in usable:
        if position(checkpoint) <= (finished - recovery.rollback_epochs, 0):
            return checkpoint, why
    root = usable[-1] if usable and isinstance(usable[-1], Parent) else None
    return root, f"{why}: from the run's own start"


def _is_usable(checkpoint: CheckpointRecord | Parent, history: History) -> bool:
    return not list(_parent_objections(checkpoint, history))


def _onset(incident: Incident) -> str:
    step = "" if incident.step_in_epoch is None else f", step {incident.step_in_epoch}"
    return f"diverged at epoch {incident.epoch}{step} ({incident.detail})"


def _precision(attempt: AttemptRecord) -> Precision:
    return Precision(attempt.train["precision"])


# --- objections -------------------------------------------------------------------------------------


def objections(remedy: Remedy, history: History, *, settings: str | None = None) -> tuple[Objection, ...]:
    """Why `remedy` should not be. `settings`: digest of what would run, where the caller knows more than the patch."""
    return tuple(_all_objections(remedy, history, settings or settings_after(remedy.patch, history)))


def _all_objections(remedy: Remedy, history: History, settings: str) -> Iterator[Objection]:
    yield from _state_objections(history)
    if remedy.parent is not None:
        yield from _parent_objections(remedy.parent, history)
    key = _key(remedy.parent)
    for attempt in history.attempts:
        diverged = attempt.incident is not None and attempt.incident.kind is IncidentKind.DIVERGED
        if diverged and attempt.settings_digest == settings and _start(attempt) == key:
            yield Objection(
                name="failed-settings",
                text=f"attempt {attempt.number} had these settings from this checkpoint, and diverged",
                hint=f"clipctl resume {history.run} --precision {_other_precision(attempt)}",
            )
            return


def _state_objections(history: History) -> Iterator[Objection]:
    for attempt in history.attempts:
        if attempt.live:
            yield Objection(
                name="live-job",
                text=f"a job of attempt {attempt.number} may be alive",
                hint=against_live(history),
                final=True,
            )
    if history.state is RunState.HELD:
        reason = history.hold_reason or "by a person"
        yield Objection(name="held", text=f"the run is held: {reason}", hint=f"clipctl release {history.run}")
    incident = history.attempts[-1].incident
    hint = f"clipctl resume {history.run} --force cancelled"
    if history.state is RunState.CANCELLED:
        yield Objection(name="cancelled", text="the run was cancelled by a person", hint=hint)
    elif incident is not None and incident.kind in CANCELS:
        yield Objection(name="cancelled", text=f"its last job was {incident.detail}", hint=hint)


def against_live(history: History) -> str:
    """What to type while a job may live: one that is ending, or that nobody has seen yet, is waited for."""
    goes_on = history.state in (RunState.RUNNING, RunState.QUEUED)
    return f"clipctl cancel {history.run}" if goes_on else f"clipctl status {history.run}, until it is known to be over"


def _parent_objections(parent: CheckpointRecord | Parent, history: History) -> Iterator[Objection]:
    if isinstance(parent, Parent):
        return
    hint = f"clipctl checkpoints {history.run} --verify"
    if parent.state is CheckpointState.DAMAGED:
        yield Objection(name="damaged", text=f"{parent.path} is not what was written", hint=hint, final=True)
    if not parent.manifest.finite:
        yield Objection(name="not-finite", text=f"{parent.path} holds weights that are not finite", hint=hint)
    for attempt in history.attempts:
        incident = attempt.incident
        if incident is None or incident.kind is not IncidentKind.DIVERGED or incident.samples_seen is None:
            continue
        if parent.manifest.attempt == attempt.number and parent.manifest.samples_seen >= incident.samples_seen:
            text = f"{parent.path} was written after attempt {attempt.number} {_onset(incident)}"
            yield Objection(name="after-onset", text=text, hint=hint)


def settings_after(patch: Mapping[str, Any], history: History) -> str:
    """Digest of the newest attempt's settings with `patch` and, where it sets a precision, that precision's profile."""
    newest = history.attempts[-1]
    train = json.loads(json.dumps(newest.train))
    precision = patch.get("train.precision")
    profile = {} if precision is None else history.profiles.get(Precision(precision), {})
    for path, value in {**profile, **patch}.items():
        if path.startswith("train."):
            _set(train, path.split(".")[1:], value)
    return settings_digest(train, newest.ranks)


def _set(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = value


def _other_precision(attempt: AttemptRecord) -> Precision:
    return Precision.FP32 if _precision(attempt) is not Precision.FP32 else Precision.AMP_BF16


def _key(parent: CheckpointRecord | Parent | None) -> str:
    if parent is None:
        return ""
    if isinstance(parent, Parent):
        return parent.digest or parent.path
    return parent.manifest.digest


def _start(attempt: AttemptRecord) -> str:
    return attempt.parent_digest or attempt.parent_path or ""
