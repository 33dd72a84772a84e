"""Losses that are lost: the watchdog goes back before the trouble and changes what it may, until nothing is left."""

from __future__ import annotations

from tests.story.watch import Watch

OVERFLOW = "train.faults=[{kind: overflow, at_epoch: 5, at_step: 3}]"
HALF = ("train.precision=amp_fp16", "train.epochs=7", "recovery.rollback_epochs=2", "train.save.keep_last=5")


def test_float16_overflows(watch: Watch) -> None:
    """F19: back before the first bad step, the next precision, one job."""
    desk = watch.desk
    desk.launched("r", *HALF, OVERFLOW)
    run = watch.completes("r")
    assert [(item["kind"], item["form"], item["epoch"]) for item in run.incidents()] == [("diverged", "nan", 5)]
    assert run.attempt(2)["parent"]["path"] == "attempts/1/checkpoints/epoch_2.pt"
    assert run.attempt(2)["train"]["precision"] == "amp_bf16"
    assert len(run.intents()) == 2


def test_no_precision_is_enough(watch: Watch) -> None:
    """F20: a learning rate that no number can hold. Each change is tried once, then a person is asked."""
    desk = watch.desk
    desk.launched("r", *HALF, "train.optim.lr=1.0e+38", "recovery.rungs=[]")
    assert "nothing is left to try" in watch.held("r")
    run = watch.stays("r")
    tried = [run.attempt(intent["attempt"])["train"]["precision"] for intent in run.intents()]
    assert tried == ["amp_fp16", "amp_bf16", "fp32"]
    assert set(run.kinds()) == {"diverged"}


H14 = (
    "train.precision=amp_fp16", "train.epochs=12", "train.data.train_num_samples=7680", "train.log_every_n_steps=5",
    "precisions.amp_fp16.batch_size=96", "precisions.amp_bf16.batch_size=96", "train.optim.warmup=20",
    "train.optim.lr=1.0e-2", "train.save.keep_last=12", "recovery.precision_ladder=[amp_fp16, amp_bf16]",
    "recovery.rungs=[]", "train.faults=[{kind: plateau, at_epoch: 4, at_step: 5}]",
)  # fmt: skip


def test_a_loss_that_rises_and_stays(watch: Watch) -> None:
    """F21: nothing says NaN, and the job would go on. It is stopped, and what H/14 was cured by cures it."""
    watch.desk.launched("h14", *H14)
    run = watch.completes("h14")
    assert [(item["form"], item["epoch"]) for item in run.incidents()] == [("plateau", 4)]
    assert [(entry["actor"], entry["attempt"]) for entry in run.entries("stop")] == [("watchdog", 1)]
    assert run.events(1, "stopped"), "it went on until it was told"
    second = run.attempt(2)
    assert second["parent"]["path"] == "attempts/1/checkpoints/epoch_2.pt"
    assert second["train"]["precision"] == "amp_bf16"
    assert len(run.intents()) == 2 and run.events(2, "completed")
