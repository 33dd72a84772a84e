"""The table of policy, rule by rule: what happened, which rule speaks, what is decided and in which words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clipctl.domain import (
    CheckpointRecord,
    CheckpointState,
    Complete,
    Decision,
    Form,
    History,
    Hold,
    Incident,
    IncidentKind as Kind,
    RecoverySpec,
    Resubmit,
    Rung,
    RunState,
    Stop,
    Wait,
)
from clipctl.policy import decide, explain
from clipctl.policy.rules import RULES
from tests.policy.records import HOUR, attempt, checkpoint, diverged, ended, history, train
from trainer.contract import Precision

NOW = 1000 * HOUR
DAMAGED = CheckpointState.DAMAGED
SAVED = tuple(checkpoint(1, epochs) for epochs in range(1, 75))
L14 = RecoverySpec(precision_ladder=(Precision.AMP_FP16, Precision.FP32), rollback_epochs=6)


def said(past: History, recovery: RecoverySpec = L14, *, now: float = NOW) -> tuple[str, Decision]:
    """The rule that speaks, and what it says."""
    last = explain(past, past.attempts[-1].incident, recovery, now=now)[-1]
    assert last.decision is not None
    return last.rule, last.decision


def runs(incident: Incident | None, **more: Any) -> History:
    """A job that lives, 74 epochs done, with what was seen of it ten minutes ago."""
    one = attempt(1, incident=incident, live=True, ended_at=None, incident_at=NOW - 600)
    return history(one, checkpoints=SAVED, **{"state": RunState.RUNNING} | more)


def pruned(checkpoints: tuple[CheckpointRecord, ...]) -> tuple[CheckpointRecord, ...]:
    return tuple(replace(item, state=CheckpointState.SUPERSEDED) for item in checkpoints)


def over(incident: Incident, **more: Any) -> History:
    return history(attempt(1, incident=incident), checkpoints=SAVED, **more)


def in_a_row(kind: Kind, count: int, *, saved: tuple[CheckpointRecord, ...] = (), **more: Any) -> History:
    """So many attempts that all ended like this; none got any further than `saved` of the first."""
    attempts = [attempt(number, incident=ended(number, kind, **more)) for number in range(1, count + 1)]
    return history(*attempts, checkpoints=saved)


ENDS = {
    # --- a job lives: nothing is started
    "trains": (runs(None), "alive", Wait, "a job of attempt 1 may be alive"),
    "slow": (runs(ended(1, Kind.SLOW, detail="rank 7")), "alive", Wait, "may be alive; slow: rank 7"),
    "cannot save": (runs(ended(1, Kind.STORAGE, alive=True, detail="quota")), "alive", Wait, "alive; storage: quota"),
    "its end is seen, but not that of its job": (runs(ended(1, Kind.CRASHED)), "alive", Wait, "may be alive"),
    "hangs": (runs(ended(1, Kind.HUNG, detail="no step for 31m")), "going_nowhere", Stop, "hung: no step for 31m"),
    "a spike that stays": (
        runs(diverged(1, 75, form=Form.SPIKE, detail="")),
        "going_nowhere",
        Stop,
        "diverged at epoch 75, step 5 (with a rise that did not come back)",
    ),
    "a plateau": (runs(diverged(1, 75, form=Form.PLATEAU)), "going_nowhere", Stop, "diverged at epoch 75"),
    "not finite, and ten minutes later still there": (runs(diverged(1, 75)), "going_nowhere", Stop, "600 s later"),
    "hangs while a person looks at it": (
        runs(ended(1, Kind.HUNG), hold_reason="py-spy"),
        "hands_off",
        Wait,
        "held (py-spy): its job is left alone",
    ),
    "97 of 96 nodes": (
        runs(ended(1, Kind.NEVER_RUNNABLE, detail="asks for 97 nodes"), state=RunState.QUEUED),
        "never_runnable",
        Hold,
        "can never start: asks for 97 nodes",
    ),
    # --- nothing lives, and nothing is to be started
    "all epochs done": (history(attempt(1), state=RunState.COMPLETED), "completed", Complete, "has completed"),
    "held": (over(ended(1, Kind.CRASHED), state=RunState.HELD, hold_reason="lunch"), "held", Hold, "lunch"),
    "cancelled": (over(ended(1, Kind.STOPPED), state=RunState.CANCELLED), "cancelled", Hold, "cancel is final"),
    "taken over from open_clip_train": (
        history(attempt(1, incident=diverged(1, 75), adopted=True), checkpoints=SAVED),
        "adopted",
        Wait,
        "clipctl resume r sets it going",
    ),
    "silence": (history(attempt(1), checkpoints=SAVED), "end_unknown", Wait, "not known yet"),
    "slow was the last word": (over(ended(1, Kind.SLOW, alive=True)), "end_unknown", Wait, "not known yet"),
    "a checkpoint was refused before": (over(ended(1, Kind.STORAGE, alive=True)), "end_unknown", Wait, "not known yet"),
    "scancel": (over(ended(1, Kind.CANCELLED_BY_USER)), "scancelled", Hold, "cancelled by user: as it says"),
    "scancel by root": (over(ended(1, Kind.CANCELLED_BY_ADMIN)), "scancelled", Hold, "cancelled by admin"),
    "another store's job": (over(ended(1, Kind.FENCED)), "fenced", Hold, "another job or store holds this run"),
    "disk full": (
        over(ended(1, Kind.STORAGE, detail="No space left on device")),
        "restart_would_not_help",
        Hold,
        "storage: No space left on device; a restart would not help",
    ),
    "disk full, and what to type": (
        over(ended(1, Kind.STORAGE, passes=False, detail="No space left on device")),
        "restart_would_not_help",
        Hold,
        "would not help: make room (clipctl checkpoints r lists what is kept, train.save.keep_last=N prunes), then",
    ),
    "a bad account": (
        over(ended(1, Kind.SUBMIT_REFUSED, passes=False, detail="Invalid account")),
        "restart_would_not_help",
        Hold,
        "submit refused: Invalid account",
    ),
    "unusable data": (over(ended(1, Kind.BAD_DATA, passes=False)), "restart_would_not_help", Hold, "bad data"),
    "somewhere": (over(replace(diverged(1, 75), epoch=None)), "place_unknown", Hold, "where it began is not known"),
    "never started, and cancelled from the queue by us": (
        over(ended(1, Kind.NEVER_RUNNABLE)),
        "restart_would_not_help",
        Hold,
        "never runnable",
    ),
    # --- the budget
    "preempted six times before anything was saved": (
        in_a_row(Kind.PREEMPTED, 6),
        "no_tries_left",
        Hold,
        "6 attempts in a row without progress: attempt 1 in amp_fp16 from the start: preempted; attempt 2",
    ),
    "GPU memory": (over(ended(1, Kind.OUT_OF_MEMORY, form=Form.GPU_MEMORY)), "out_of_memory", Hold, "GPU memory"),
    "a node's memory, twice": (in_a_row(Kind.OUT_OF_MEMORY, 2), "out_of_memory", Hold, "2 times in a row"),
    "three crashes": (in_a_row(Kind.CRASHED, 3), "crash_loop", Hold, "crashed 3 times in a row without progress"),
    "refused for a day": (in_a_row(Kind.SUBMIT_REFUSED, 24), "refused_for_now", Hold, "24 times in a row"),
    # --- what it could go on from is gone
    "a plateau that was noticed late, when its parents were pruned": (
        history(attempt(1, incident=diverged(1, 75, form=Form.PLATEAU)), checkpoints=pruned(SAVED[:68]) + SAVED[70:]),
        "everything_lost",
        Hold,
        "attempts/1/checkpoints/epoch_68.pt and all before it are pruned or damaged: it would begin anew",
    ),
    "every byte is rotten": (
        history(attempt(1, incident=ended(1, Kind.PREEMPTED)), checkpoints=(checkpoint(1, 3, state=DAMAGED),)),
        "everything_lost",
        Hold,
        "preempted; attempts/1/checkpoints/epoch_3.pt and all before it",
    ),
    "one rank, no rise, and nothing is left": (
        history(attempt(1, incident=diverged(1, 75, ranks=(17,))), checkpoints=pruned(SAVED)),
        "one_rank_out_of_the_blue",
        Hold,
        "attempts/1/checkpoints/epoch_74.pt and all before it are pruned or damaged: it would begin anew",
    ),
    "too early for any checkpoint": (
        history(attempt(1, incident=diverged(1, 5)), checkpoints=SAVED[:4]),
        "other_settings",
        Resubmit,
        "own start",
    ),
    "pruned, and a person wants it to begin anew": (
        history(attempt(1, incident=diverged(1, 75)), checkpoints=pruned(SAVED[:68]), set_going_at=NOW - 1),
        "other_settings",
        Resubmit,
        "from the run's own start",
    ),
    # --- how it goes on
    "not finite": (over(diverged(1, 75)), "other_settings", Resubmit, "fp32 comes after amp_fp16"),
    "stuck near chance, stopped and gone": (
        over(diverged(1, 75, form=Form.PLATEAU)),
        "other_settings",
        Resubmit,
        "fp32 comes after amp_fp16",
    ),
    "one rank, no rise": (
        over(diverged(1, 75, ranks=(17,))),
        "one_rank_out_of_the_blue",
        Resubmit,
        "on rank 17 alone and without a rise: a node's fault at first; the newest good checkpoint, same settings, once",
    ),
    "one rank, after a rise": (over(diverged(1, 75, ranks=(17,), rise=True)), "other_settings", Resubmit, "fp32"),
    "preempted": (over(ended(1, Kind.PREEMPTED)), "go_on", Resubmit, "preempted; the newest good checkpoint, same"),
    "a node's memory, once": (in_a_row(Kind.OUT_OF_MEMORY, 1), "go_on", Resubmit, "out of memory; no checkpoint yet"),
    "hung, stopped and gone": (over(ended(1, Kind.HUNG)), "go_on", Resubmit, "hung; the newest good checkpoint"),
    "refused once, an hour ago": (in_a_row(Kind.SUBMIT_REFUSED, 1), "refused_for_now", Resubmit, "the same again"),
}


@pytest.mark.parametrize(("past", "rule", "decision", "words"), ENDS.values(), ids=ENDS.keys())
def test_what_happened_and_what_is_decided(past: History, rule: str, decision: type, words: str):
    spoke, decided = said(past)
    assert (spoke, type(decided)) == (rule, decision)
    assert words in decided.basis


def test_every_rule_has_its_line_in_the_table_and_a_sentence_of_its_own():
    rules = [rule.__name__ for rule in RULES]
    assert {rule for _, rule, _, _ in ENDS.values()} == set(rules) - {"nothing_left"}, "nothing_left: see below"
    assert len({rule.__doc__ for rule in RULES}) == len(rules)


def test_a_trainer_that_said_that_it_diverged_has_time_to_leave():
    past = runs(diverged(1, 75))
    assert said(past, now=NOW - 400)[0] == "alive"
    assert said(replace(past, attempts=(replace(past.attempts[0], incident_at=None),)))[0] == "alive"


# --- divergences: the ladder, the rungs, and when there is nothing left -------------------------------


def test_the_story_of_l14_to_its_bitter_end():
    """Everything that policy would have tried had float32 not helped, each from epoch 68, each change on top."""
    recovery, attempts, changes = replace(L14, tries=9), [attempt(1, incident=diverged(1, 75))], []
    while isinstance((decision := choose(attempts, recovery)), Resubmit):
        parent, patch = decision.remedy.parent, decision.remedy.patch
        assert parent == SAVED[67]
        changes.append(dict(patch))
        number = len(attempts) + 1
        settings = patched(attempts[-1].train, patch)
        attempts.append(attempt(number, parent=SAVED[67], settings=settings, incident=diverged(number, 75)))
    assert changes == [
        {"train.precision": "fp32"},
        {"train.seed": 1},
        {"train.optim.lr": 0.00045},
        {"train.optim.grad_clip_norm": 1.0},
        {"train.optim.beta2": 0.95},
    ]
    assert isinstance(decision, Hold)
    assert "nothing is left to try: attempt 2 in fp32 from epoch_68.pt: diverged at epoch 75" in decision.basis


def choose(attempts: list[Any], recovery: RecoverySpec) -> Decision:
    past = history(*attempts, checkpoints=SAVED, profiles={Precision.FP32: {"train.batch_size": 224}})
    return decide(past, past.attempts[-1].incident, recovery, now=NOW)


def patched(settings: Any, patch: Any) -> dict[str, Any]:
    new = {**settings, "optim": dict(settings["optim"])}
    for path, value in patch.items():
        *_, section, name = path.split(".")
        (new["optim"] if section == "optim" else new)[name] = value
    return new | ({"batch_size": 224} if patch.get("train.precision") == "fp32" else {})


def test_a_rung_that_changes_nothing_is_left_out():
    settings = train("fp32")
    settings["optim"] |= {"grad_clip_norm": 0.5, "beta2": 0.9}
    past = history(attempt(1, settings=settings, incident=diverged(1, 75)), checkpoints=SAVED)
    recovery = replace(L14, rungs=L14.rungs[2:])
    assert said(past, recovery)[0] == "nothing_left"


def test_a_rung_that_open_clip_train_would_ignore_is_left_out():
    settings = train("fp32") | {"engine": "open_clip"}
    past = history(attempt(1, settings=settings, incident=diverged(1, 75)), checkpoints=SAVED)
    assert said(past, replace(L14, rungs=(Rung.LOWER_BETA2,)))[0] == "nothing_left"
    decision = said(past, replace(L14, rungs=(Rung.LOWER_BETA2, Rung.LOWER_LR)))[1]
    assert isinstance(decision, Resubmit)
    assert decision.remedy.patch == {"train.optim.lr": 0.00045}


def test_progress_opens_the_rungs_again():
    """The other seed brought the run to epoch 90: against the trouble there, another seed is the first thing again."""
    second = attempt(2, parent=SAVED[67], settings=train("fp32") | {"seed": 1}, incident=diverged(2, 90))
    past = history(attempt(1, incident=diverged(1, 75)), second, checkpoints=(*SAVED, checkpoint(2, 83)))
    decision = said(past)[1]
    assert isinstance(decision, Resubmit)
    assert decision.remedy.patch == {"train.seed": 2}
    assert decision.remedy.parent == checkpoint(2, 83)


def test_a_precision_that_does_not_fit_into_the_gpu_gives_way_to_the_next():
    ladder = RecoverySpec(precision_ladder=(Precision.AMP_FP16, Precision.FP32, Precision.AMP_BF16), rollback_epochs=6)
    too_big = ended(2, Kind.OUT_OF_MEMORY, form=Form.GPU_MEMORY)
    second = attempt(2, parent=SAVED[67], settings=train("fp32"), incident=too_big)
    past = history(attempt(1, incident=diverged(1, 75)), second, checkpoints=SAVED)
    decision = said(past, ladder)[1]
    assert isinstance(decision, Resubmit)
    assert (decision.remedy.parent, decision.remedy.patch) == (SAVED[67], {"train.precision": "amp_bf16"})


def test_the_same_place_again_is_a_divergence_after_all():
    first = attempt(1, incident=diverged(1, 75, ranks=(17,)))
    second = attempt(2, parent=SAVED[73], incident=diverged(2, 75, ranks=(40,)))
    decision = said(history(first, second, checkpoints=SAVED))[1]
    assert isinstance(decision, Resubmit)
    assert (decision.remedy.parent, decision.remedy.patch) == (SAVED[67], {"train.precision": "fp32"})


def test_another_place_is_another_nodes_fault_at_first():
    first = attempt(1, incident=diverged(1, 75, ranks=(17,)))
    newer = checkpoint(2, 80)
    second = attempt(2, parent=SAVED[73], incident=diverged(2, 81, ranks=(40,)))
    rule, decision = said(history(first, second, checkpoints=(*SAVED, newer)))
    assert rule == "one_rank_out_of_the_blue" and isinstance(decision, Resubmit)
    assert decision.remedy.parent == newer


# --- what stands behind the newest incident -----------------------------------------------------------


def test_a_standby_that_was_fenced_leaves_the_word_to_what_ended_the_job_before_it():
    second = attempt(2, parent=SAVED[73], incident=ended(2, Kind.FENCED))
    rule, decision = said(history(attempt(1, incident=diverged(1, 75)), second, checkpoints=SAVED))
    assert rule == "other_settings" and isinstance(decision, Resubmit)
    assert decision.remedy.patch == {"train.precision": "fp32"}
    behind_a_cancel = history(attempt(1, incident=ended(1, Kind.CANCELLED_BY_USER)), second, checkpoints=SAVED)
    assert said(behind_a_cancel)[0] == "scancelled"


def test_a_remedy_that_was_refused_for_now_is_asked_for_again_as_it_was():
    refused = attempt(2, parent=SAVED[67], settings=train("fp32", 224), incident=ended(2, Kind.SUBMIT_REFUSED))
    decision = said(history(attempt(1, incident=diverged(1, 75)), refused, checkpoints=SAVED))[1]
    assert isinstance(decision, Resubmit)
    assert (decision.remedy.parent, decision.remedy.patch) == (SAVED[67], {}), "the newest settings are fp32 already"


# --- time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "tries", "pause"),
    [(Kind.CRASHED, 1, 60), (Kind.CRASHED, 2, 120), (Kind.SUBMIT_REFUSED, 1, 60), (Kind.SUBMIT_REFUSED, 20, 3600)],
)
def test_the_next_try_waits_longer_each_time(kind: Kind, tries: int, pause: int):
    past = in_a_row(kind, tries)
    end = past.attempts[-1].ended_at
    assert end is not None
    early, late = said(past, now=end + pause - 1)[1], said(past, now=end + pause)[1]
    assert isinstance(early, Wait) and "again from 1970-01-0" in early.basis
    assert isinstance(late, Resubmit)


def test_a_crash_after_progress_is_restarted_at_once():
    past = in_a_row(Kind.CRASHED, 1, saved=SAVED)
    assert isinstance(said(past, now=past.attempts[-1].ended_at or 0.0)[1], Resubmit)


# --- a person's word ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "past",
    [
        in_a_row(Kind.CRASHED, 3),
        in_a_row(Kind.PREEMPTED, 6),
        in_a_row(Kind.OUT_OF_MEMORY, 2),
        in_a_row(Kind.SUBMIT_REFUSED, 24),
        over(ended(1, Kind.STORAGE)),
        over(ended(1, Kind.FENCED)),
    ],
    ids=["crashes", "no progress", "memory", "refusals", "storage", "fenced"],
)
def test_a_release_opens_every_budget_again(past: History):
    assert isinstance(said(past)[1], Hold)
    assert isinstance(said(replace(past, set_going_at=NOW - 1))[1], Resubmit)


def test_a_release_before_it_happened_is_no_word_about_it():
    assert isinstance(said(over(ended(1, Kind.STORAGE), set_going_at=HOUR))[1], Hold)


def test_a_release_lets_a_job_wait_that_could_not_start_as_it_was():
    past = runs(ended(1, Kind.NEVER_RUNNABLE), state=RunState.QUEUED, set_going_at=NOW - 1)
    assert said(past)[0] == "alive"
