"""How a run goes on, as a table of situations."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from clipctl.domain import (
    CheckpointRecord,
    CheckpointState,
    Complete,
    Decision,
    History,
    Hold,
    IncidentKind,
    RecoverySpec,
    Remedy,
    Resubmit,
    RunState,
    Wait,
)
from clipctl.policy import decide, objections, settings_after, settings_digest
from tests.policy.records import EPOCH, attempt, checkpoint, diverged, ended, history, train
from trainer.contract import Parent, Precision

L14 = RecoverySpec(precision_ladder=(Precision.AMP_FP16, Precision.FP32), rollback_epochs=6)


def choose(past: History, recovery: RecoverySpec = L14) -> Decision:
    return decide(past, past.attempts[-1].incident, recovery, now=1e9)


def remedy(past: History, recovery: RecoverySpec = L14) -> Remedy:
    decision = choose(past, recovery)
    assert isinstance(decision, Resubmit), decision
    return decision.remedy


def names(wanted: Remedy, past: History) -> list[str]:
    return [objection.name for objection in objections(wanted, past)]


def test_the_run_this_program_was_written_for():
    """Loss not finite in epoch 75: 74 were done, 6 are given up, epoch 69 starts again from epoch_68.pt in float32."""
    saved = tuple(checkpoint(1, epochs) for epochs in range(1, 75))
    past = history(attempt(1, incident=diverged(1, 75)), checkpoints=saved)
    chosen = remedy(past)
    assert isinstance(chosen.parent, CheckpointRecord)
    assert chosen.parent.manifest.file == "epoch_68.pt"
    assert chosen.patch == {"train.precision": "fp32"}
    assert "epochs done: 74, of which the last 6" in choose(past).basis


def test_a_divergence_in_the_second_epoch_of_a_short_run_starts_from_the_beginning():
    past = history(attempt(1, incident=diverged(1, 2)), checkpoints=(checkpoint(1, 1),))
    chosen = remedy(past, RecoverySpec(rollback_epochs=1))
    assert chosen.parent is None
    assert chosen.patch == {"train.precision": "amp_bf16"}


def test_rollback_zero_takes_the_last_epoch_before_the_onset_and_no_step_file_after_it():
    saved = (checkpoint(1, 1), checkpoint(1, 2), checkpoint(1, 2, into=3))
    chosen = remedy(history(attempt(1, incident=diverged(1, 3)), checkpoints=saved), RecoverySpec(rollback_epochs=0))
    assert chosen.parent == saved[1]


def test_a_checkpoint_that_cannot_be_used_gives_way_to_an_older_one():
    saved = (
        checkpoint(1, 66),
        checkpoint(1, 67, finite=False),
        checkpoint(1, 68, state=CheckpointState.DAMAGED),
        checkpoint(1, 74),
    )
    chosen = remedy(history(attempt(1, incident=diverged(1, 75)), checkpoints=saved))
    assert chosen.parent == saved[0]


def test_the_ladder_skips_what_failed_from_this_parent_and_ends_in_a_hold():
    saved = tuple(checkpoint(1, epochs) for epochs in range(1, 10))
    first = attempt(1, incident=diverged(1, 5))
    recovery = RecoverySpec(rollback_epochs=1)  # fp16 -> bf16 -> fp32
    second = attempt(2, parent=saved[2], settings=train("amp_bf16"), incident=diverged(2, 5))
    assert remedy(history(first, second, checkpoints=saved), recovery).patch == {"train.precision": "fp32"}
    back = attempt(3, parent=saved[2], settings=train("amp_fp16"), incident=diverged(3, 5))
    assert remedy(history(first, second, back, checkpoints=saved), recovery).patch == {"train.precision": "fp32"}
    third = attempt(3, parent=saved[2], settings=train("fp32"), incident=diverged(3, 5))
    decision = choose(history(first, second, third, checkpoints=saved), replace(recovery, rungs=()))
    assert isinstance(decision, Hold)
    assert "nothing is left to try: attempt 2 in amp_bf16 from epoch_3.pt: diverged at epoch 5" in decision.basis


def test_what_failed_is_known_with_the_batch_size_of_its_profile():
    """fp32 failed with its profile's 224. Asking for fp32 means 224 again, although the newest attempt has 208."""
    parent = checkpoint(1, 3)
    past = history(
        attempt(1, incident=diverged(1, 5)),
        attempt(2, parent=parent, settings=train("fp32", 224), incident=diverged(2, 5)),
        attempt(3, parent=parent, settings=train("amp_fp16", 208), incident=diverged(3, 5)),
        checkpoints=(parent,),
        profiles={Precision.FP32: {"train.batch_size": 224}},
    )
    assert names(Remedy(parent=parent, patch={"train.precision": "fp32"}), past) == ["failed-settings"]
    assert names(Remedy(parent=parent, patch={"train.precision": "fp32", "train.batch_size": 200}), past) == []


@pytest.mark.parametrize(
    "kind",
    [
        IncidentKind.CRASHED,
        IncidentKind.STOPPED,
        IncidentKind.LOST,
        IncidentKind.PREEMPTED,
        IncidentKind.TIMED_OUT,
        IncidentKind.NODE_FAILED,
        IncidentKind.OUT_OF_MEMORY,
        IncidentKind.HUNG,
    ],
)
def test_other_ends_go_on_from_the_newest_good_checkpoint_with_the_same_settings(kind: IncidentKind):
    saved = (checkpoint(1, 1), checkpoint(1, 2), checkpoint(1, 2, into=7))
    chosen = remedy(history(attempt(1, incident=ended(1, kind)), checkpoints=saved))
    assert (chosen.parent, chosen.patch) == (saved[2], {})


def test_what_was_rolled_back_over_is_not_a_parent_again():
    """Attempt 2 went back to epoch 68 and crashed at once: epochs 69 to 74 of attempt 1 led to the divergence."""
    saved = tuple(checkpoint(1, epochs) for epochs in range(60, 75))
    parent = saved[8]
    second = attempt(2, parent=parent, settings=train("fp32"), incident=ended(2, IncidentKind.CRASHED))
    past = history(attempt(1, incident=diverged(1, 75)), second, checkpoints=saved)
    assert remedy(past).parent == parent
    newer = checkpoint(2, 69)
    past = history(attempt(1, incident=diverged(1, 75)), second, checkpoints=(*saved, newer))
    assert remedy(past).parent == newer


def test_a_crash_before_any_checkpoint_starts_again_where_the_attempt_did():
    crashed = ended(1, IncidentKind.CRASHED)
    assert remedy(history(attempt(1, incident=crashed))).parent is None
    chosen = remedy(history(attempt(1, parent_path="/old/checkpoints/epoch_12.pt", incident=crashed)))
    assert chosen.parent == Parent(path="/old/checkpoints/epoch_12.pt", epochs_done=12)


STOPPED = attempt(1, incident=ended(1, IncidentKind.STOPPED))
SCANCELLED = ended(1, IncidentKind.CANCELLED_BY_USER, detail="with scancel")


@pytest.mark.parametrize(
    ("past", "expected"),
    [
        (history(attempt(1, live=True), state=RunState.RUNNING), Wait(basis="a job of attempt 1 may be alive")),
        (history(attempt(1)), Wait(basis="how the newest attempt ended is not known yet")),
        (history(attempt(1), state=RunState.COMPLETED), Complete(basis="the run has completed")),
        (history(STOPPED, state=RunState.HELD, hold_reason="lunch"), Hold(basis="lunch")),
        (history(STOPPED, state=RunState.CANCELLED), Hold(basis="a person's cancel is final")),
        (history(attempt(1, incident=SCANCELLED)), Hold(basis="cancelled by user: with scancel")),
    ],
    ids=["live", "not known", "completed", "held", "cancelled", "scancel"],
)
def test_when_nothing_is_to_be_submitted(past: History, expected: Decision):
    assert choose(past) == expected


def test_objections_are_named_so_that_they_can_be_overruled():
    good, bad = checkpoint(1, 3), checkpoint(1, 3, into=90)
    damaged = checkpoint(1, 2, state=CheckpointState.DAMAGED)
    past = history(attempt(1, incident=diverged(1, 4)), checkpoints=(good, bad, damaged))
    assert names(Remedy(parent=good), past) == []
    assert names(Remedy(parent=checkpoint(1, 4)), past) == ["after-onset"]
    assert names(Remedy(parent=checkpoint(1, 3, finite=False)), past) == ["not-finite"]
    assert names(Remedy(parent=damaged), past) == ["damaged"]
    assert names(Remedy(parent=None), past) == ["failed-settings"]
    assert names(Remedy(parent=None, patch={"train.seed": 1}), past) == []


def test_nothing_overrules_a_live_job_or_a_damaged_parent():
    past = history(attempt(1, live=True), state=RunState.RUNNING)
    damaged = checkpoint(1, 2, state=CheckpointState.DAMAGED)
    assert [objection.final for objection in objections(Remedy(parent=damaged), past)] == [True, True]


@pytest.mark.parametrize(
    ("patch", "same"),
    [
        ({"train.seed": 5}, False),
        ({"train.optim.lr": 1e-4}, False),
        ({"train.data.workers": 9}, False),
        ({"train.faults": [{"kind": "overflow", "at_epoch": 2}]}, False),
        ({"train.engine": "rehearsal"}, False),
        ({"train.force_patch_dropout": 0.5}, False),
        ({"train.grad_checkpointing": True}, True),
        ({"train.log_every_n_steps": 1}, True),
        ({"train.rehearsal.step_seconds": 1.0}, True),
        ({"train.save.steps": 10}, True),
        ({"train.data.max_bad_fraction": 0.5}, True),
    ],
)
def test_what_counts_as_other_settings(patch: dict[str, object], same: bool):
    past = history(attempt(1))
    assert (settings_after(patch, past) == past.attempts[0].settings_digest) is same
    assert past.attempts[0].train == train(), "the record itself is left alone"


def test_other_ranks_are_other_settings():
    assert settings_digest(train(), 384) != settings_digest(train(), 380)
    assert settings_digest(train(), 384) != settings_digest(train() | {"accum_freq": 2}, 384)


@given(
    saved=st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 99), st.sampled_from(CheckpointState), st.booleans()),
        max_size=15,
        unique_by=lambda item: item[:2],
    ),
    onset=st.integers(1, 12),
    rollback=st.integers(0, 4),
)
def test_no_divergence_ever_restarts_from_a_bad_checkpoint(
    saved: list[tuple[int, int, CheckpointState, bool]], onset: int, rollback: int
):
    records = tuple(
        checkpoint(1, epochs, into=into, state=state, finite=finite) for epochs, into, state, finite in saved
    )
    past = history(attempt(1, incident=diverged(1, onset)), checkpoints=records)
    chosen = choose(past, RecoverySpec(rollback_epochs=rollback))
    good = [
        item for item in records
        if item.manifest.finite and item.manifest.samples_seen <= (onset - 1 - rollback) * EPOCH
    ]  # fmt: skip
    there = [item for item in good if item.state in (CheckpointState.COMPLETE, CheckpointState.VERIFIED)]
    if good and not there:
        assert isinstance(chosen, Hold), "what it had learned is gone: a person decides whether it begins anew"
        return
    assert isinstance(chosen, Resubmit)
    assert chosen.remedy.parent == max(there, key=lambda item: item.manifest.samples_seen, default=None)
