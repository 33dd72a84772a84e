"""The table of policy: ordered rules, of which the first that speaks is chosen.

A rule's docstring says when it speaks. Rules before `completed` are about a job that lives: nothing is started then.
"""

from __future__ import annotations

from collections.abc import Callable

from clipctl.domain import (
    CANCELS,
    CheckpointRecord,
    Complete,
    Decision,
    Form,
    Hold,
    Incident,
    IncidentKind,
    Remedy,
    Resubmit,
    RunState,
    Stop,
    Wait,
)
from clipctl.lineage import parent_record
from clipctl.policy.budget import in_a_row, not_before, refused_in_a_row
from clipctl.policy.case import Case
from clipctl.policy.nodes import EXCLUDE, exclusion
from clipctl.policy.objections import objections
from clipctl.policy.parents import lost_parents, parent_after
from clipctl.policy.remedies import changes
from clipctl.policy.suspicion import diverged, one_bad_node
from clipctl.policy.words import clock, named, onset, tried

Rule = Callable[[Case], Decision | None]

BORNE = frozenset({IncidentKind.SLOW, IncidentKind.STORAGE})  # of a job that lives: it goes on, and may end otherwise

# --- a job lives ------------------------------------------------------------------------------------


def hands_off(case: Case) -> Decision | None:
    """A job lives, and a person holds the run: what goes on is left alone."""
    if case.live is None or case.history.hold_reason is None:
        return None
    return Wait(basis=f"held ({case.history.hold_reason}): its job is left alone")


def going_nowhere(case: Case) -> Decision | None:
    """A job lives, but hangs, or trains on behind a divergence: it is stopped."""
    incident = case.live.incident if case.live else None
    if case.live is None or incident is None:
        return None
    if incident.kind is IncidentKind.HUNG:
        return Stop(basis=f"hung: {incident.detail}")
    if not diverged(incident):
        return None
    if incident.form in (Form.SPIKE, Form.PLATEAU):
        return Stop(basis=onset(incident))
    said_at = case.live.incident_at
    if said_at is None or case.now - said_at < case.recovery.linger:
        return None  # its trainer ends it
    return Stop(basis=f"{onset(incident)}, and still there {case.now - said_at:.0f} s later")


def never_runnable(case: Case) -> Decision | None:
    """A job waits for what it will never get: a person is told; the job keeps its place."""
    incident = case.live.incident if case.live else None
    if incident is None or incident.kind is not IncidentKind.NEVER_RUNNABLE or case.released:
        return None
    return Hold(basis=f"can never start: {incident.detail}")


def alive(case: Case) -> Decision | None:
    """A job lives, or may live."""
    if case.live is None:
        return None
    incident = case.live.incident
    trouble = f"; {named(incident)}: {incident.detail}" if incident is not None and incident.kind in BORNE else ""
    return Wait(basis=f"a job of attempt {case.live.number} may be alive{trouble}")


# --- nothing lives, and nothing is to be started ------------------------------------------------------


def completed(case: Case) -> Decision | None:
    """The trainer said that all epochs are done."""
    return Complete(basis="the run has completed") if case.history.state is RunState.COMPLETED else None


def held(case: Case) -> Decision | None:
    """The run is held."""
    if case.history.state is not RunState.HELD:
        return None
    return Hold(basis=case.history.hold_reason or "held by a person")


def cancelled(case: Case) -> Decision | None:
    """A person cancelled the run."""
    return Hold(basis="a person's cancel is final") if case.history.state is RunState.CANCELLED else None


def end_unknown(case: Case) -> Decision | None:
    """How the newest attempt ended is not known yet."""
    if case.incident is None or (case.incident.alive and case.incident.kind in BORNE):
        return Wait(basis="how the newest attempt ended is not known yet")
    return None


def scancelled(case: Case) -> Decision | None:
    """The job was cancelled behind clipctl's back, by its user or by others."""
    incident = case.cause
    if incident is None or incident.kind not in CANCELS:
        return None
    return Hold(basis=f"{named(incident)}: {incident.detail}")


def fenced(case: Case) -> Decision | None:
    """Something else holds the run, and nothing before explains what."""
    cause = case.cause
    if case.released or (cause is not None and cause.kind is not IncidentKind.FENCED):
        return None
    return Hold(basis="fenced: another job or store holds this run; see its claims before anything is started")


def restart_would_not_help(case: Case) -> Decision | None:
    """The disk is full, or what was asked for cannot be: the same start would end the same way."""
    cause = case.cause
    if cause is None or case.released:
        return None
    if cause.kind not in (IncidentKind.STORAGE, IncidentKind.NEVER_RUNNABLE) and cause.passes:
        return None
    return Hold(basis=f"{named(cause)}: {cause.detail}; a restart would not help{_room(case, cause)}")


def _room(case: Case, cause: Incident) -> str:
    """What to type where a disk or a quota is full."""
    if cause.kind is not IncidentKind.STORAGE or cause.passes:
        return ""
    run = case.history.run
    kept = f"clipctl checkpoints {run} lists what is kept, train.save.keep_last=N prunes"
    return f": make room ({kept}), then clipctl release {run}"


def place_unknown(case: Case) -> Decision | None:
    """It diverged, and nobody knows where: no checkpoint is known to be older."""
    cause = case.cause
    if cause is None or not diverged(cause) or cause.epoch is not None:
        return None
    return Hold(basis=f"{onset(cause)}, but where it began is not known")


# --- the budget -------------------------------------------------------------------------------------


def refused_for_now(case: Case) -> Decision | None:
    """The scheduler takes no job now: the same again after a while."""
    incident = case.incident
    if incident is None or incident.kind is not IncidentKind.SUBMIT_REFUSED:
        return None
    tries = refused_in_a_row(case.history)
    if tries >= case.recovery.submissions:
        return Hold(basis=f"refused by the scheduler {tries} times in a row, the last time: {incident.detail}")
    basis = f"refused for now ({incident.detail}), {_times(tries)}"
    if (due := not_before(case.newest, tries, case.recovery)) > case.now:
        return Wait(basis=f"{basis}; again from {clock(due)}")
    return _resubmit(case, Remedy(parent=parent_record(case.history, case.newest)), f"{basis}; the same again")


def no_tries_left(case: Case) -> Decision | None:
    """So many attempts in a row ended without progress."""
    count = len(case.charged)
    if count < case.recovery.tries:
        return None
    return Hold(basis=f"{count} attempts in a row without progress: {tried(case.charged)}")


def out_of_memory(case: Case) -> Decision | None:
    """A GPU's memory was used up, or a node's for the second time in a row."""
    cause = case.cause
    if cause is None or cause.kind is not IncidentKind.OUT_OF_MEMORY or case.released:
        return None
    if cause.form is Form.GPU_MEMORY:
        choice = "a smaller train.batch_size, with a larger train.accum_freq, is a person's choice"
        return Hold(basis=f"out of GPU memory: {cause.detail}; {choice}")
    count = in_a_row(case.charged, IncidentKind.OUT_OF_MEMORY)
    if count < 2:
        return None
    return Hold(basis=f"out of memory {count} times in a row without progress: {cause.detail}")


def crash_loop(case: Case) -> Decision | None:
    """It crashed in a row without progress: back-off, and an end to it."""
    cause, newest = case.cause, case.newest
    count = in_a_row(case.charged, IncidentKind.CRASHED)
    if cause is None or not count:
        return None
    if count >= case.recovery.crashes:
        return Hold(basis=f"crashed {count} times in a row without progress: {cause.detail}")
    if (due := not_before(newest, count, case.recovery)) > case.now:
        return Wait(basis=f"crashed ({cause.detail}) {_times(count)} without progress; again from {clock(due)}")
    return None


# --- how it goes on ---------------------------------------------------------------------------------


def one_rank_out_of_the_blue(case: Case) -> Decision | None:
    """Not finite on one rank alone, without a rise: its node is left out, and the same settings get one retry."""
    if not one_bad_node(case.newest, case.history):
        return None
    if hold := _all_lost(case, None):
        return hold
    parent, why = parent_after(case.history, None, case.recovery)
    assert case.incident is not None
    basis = f"{onset(case.incident)} on rank {case.incident.ranks[0]} alone and without a rise: a node's fault at first"
    return _resubmit(case, Remedy(parent=parent), f"{basis}; {why}, same settings, once")


def everything_lost(case: Case) -> Decision | None:
    """It would begin anew, as every checkpoint that it could go on from is pruned or damaged."""
    return _all_lost(case, case.cause) if case.cause else None


def other_settings(case: Case) -> Decision | None:
    """It diverged: back before the rise, with the first change that has not failed from there."""
    cause = case.cause
    if cause is None or not diverged(cause):
        return None
    parent, why = parent_after(case.history, cause, case.recovery)
    for patch, change in changes(case.history, case.recovery):
        remedy = Remedy(parent=parent, patch=patch)
        if not objections(remedy, case.history):
            return _resubmit(case, remedy, f"{onset(cause)}; {why}; {change}")
    return None


def nothing_left(case: Case) -> Decision | None:
    """It diverged, and every change was tried."""
    cause = case.cause
    if cause is None or not diverged(cause):
        return None
    return Hold(basis=f"{onset(cause)}; nothing is left to try: {tried(case.charged or (case.newest,))}")


def go_on(case: Case) -> Decision | None:
    """Every other end: the newest good checkpoint, same settings."""
    cause = case.cause or case.incident
    assert cause is not None  # or `end_unknown` has spoken
    parent, why = parent_after(case.history, cause, case.recovery)
    return _resubmit(case, Remedy(parent=parent), f"{named(cause)}; {why}, same settings")


def _all_lost(case: Case, answered: Incident | None) -> Decision | None:
    """`answered`: where to go on depends on it, as for `parent_after`."""
    parent, _ = parent_after(case.history, answered, case.recovery)
    lost = lost_parents(case.history, answered, case.recovery)
    if case.released or isinstance(parent, CheckpointRecord) or not lost:
        return None
    what = case.cause or case.incident
    assert what is not None  # or `end_unknown` has spoken
    return Hold(basis=f"{named(what)}; {lost[0].path} and all before it are pruned or damaged: it would begin anew")


def _resubmit(case: Case, remedy: Remedy, basis: str) -> Decision:
    """With the nodes that are to be avoided now. A remedy that must not be is a person's business."""
    if refused := objections(remedy, case.history):
        return Hold(basis=f"{basis}; but {refused[0].text}")
    nodes = exclusion(case.history, case.recovery, now=case.now)
    if nodes:
        basis += f"; {EXCLUDE}={nodes[EXCLUDE] or 'none'}"
    return Resubmit(remedy=Remedy(parent=remedy.parent, patch={**remedy.patch, **nodes}), basis=basis)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times in a row"


RULES: tuple[Rule, ...] = (
    hands_off,
    going_nowhere,
    never_runnable,
    alive,
    completed,
    held,
    cancelled,
    end_unknown,
    scancelled,
    fenced,
    restart_would_not_help,
    place_unknown,
    refused_for_now,
    no_tries_left,
    out_of_memory,
    crash_loop,
    one_rank_out_of_the_blue,
    everything_lost,
    other_settings,
    nothing_left,
    go_on,
)
