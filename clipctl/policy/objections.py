"""What stands against a remedy: decide filters by it, resume prints it, --force overrules what is not final."""

from __future__ import annotations

from collections.abc import Iterator

from clipctl.domain import (
    CANCELS,
    AttemptRecord,
    CheckpointRecord,
    CheckpointState,
    History,
    Objection,
    Remedy,
    RunState,
)
from clipctl.policy.settings import settings_after
from clipctl.policy.suspicion import diverged, settings_failed
from clipctl.policy.words import ended, onset
from trainer.contract import Parent, Precision


def objections(remedy: Remedy, history: History, *, settings: str | None = None) -> tuple[Objection, ...]:
    """Why `remedy` should not be. `settings`: digest of what would run, where the caller knows more than the patch."""
    return tuple(_all_objections(remedy, history, settings or settings_after(remedy.patch, history)))


def _all_objections(remedy: Remedy, history: History, settings: str) -> Iterator[Objection]:
    yield from _state_objections(history)
    if remedy.parent is not None:
        yield from parent_objections(remedy.parent, history)
    key = _key(remedy.parent)
    for attempt in history.attempts:
        if attempt.settings_digest == settings and _start(attempt) == key and settings_failed(attempt, history):
            assert attempt.incident is not None
            yield Objection(
                name="failed-settings",
                text=f"attempt {attempt.number} had these settings from this checkpoint, and {ended(attempt.incident)}",
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


def parent_objections(parent: CheckpointRecord | Parent, history: History) -> Iterator[Objection]:
    """What makes a checkpoint no parent, whatever the settings."""
    if isinstance(parent, Parent):
        return
    hint = f"clipctl checkpoints {history.run} --verify"
    if parent.state is CheckpointState.DAMAGED:
        yield Objection(name="damaged", text=f"{parent.path} is not what was written", hint=hint, final=True)
    if not parent.manifest.finite:
        yield Objection(name="not-finite", text=f"{parent.path} holds weights that are not finite", hint=hint)
    for attempt in history.attempts:
        incident = attempt.incident
        if incident is None or not diverged(incident) or incident.samples_seen is None:
            continue
        if parent.manifest.attempt == attempt.number and parent.manifest.samples_seen >= incident.samples_seen:
            text = f"{parent.path} was written after attempt {attempt.number} {onset(incident)}"
            yield Objection(name="after-onset", text=text, hint=hint)


def _other_precision(attempt: AttemptRecord) -> Precision:
    return Precision.FP32 if Precision(attempt.train["precision"]) is not Precision.FP32 else Precision.AMP_BF16


def _key(parent: CheckpointRecord | Parent | None) -> str:
    if parent is None:
        return ""
    if isinstance(parent, Parent):
        return parent.digest or parent.path
    return parent.manifest.digest


def _start(attempt: AttemptRecord) -> str:
    return attempt.parent_digest or attempt.parent_path or ""
