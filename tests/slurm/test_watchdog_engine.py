"""open_clip_train itself as the trainer of a job: what its log says is what the watchdog acts on."""

from __future__ import annotations

from tests.story.watch import Watch

UNCHANGED = (
    "train.engine=open_clip", "train.rehearsal.step_seconds=0", "train.data.workers=1", "train.save.keep_last=5",
    "resources.ranks_per_node=1", "train.precision=amp_bf16", "recovery.rungs=[]",
)  # fmt: skip


def test_its_nan_is_met_with_the_next_precision_and_then_with_a_question(watch: Watch) -> None:
    """A learning rate that no number can hold, until a person takes another one."""
    desk = watch.desk
    desk.launched("r", *UNCHANGED, "train.optim.lr=1.0e+37", "train.optim.warmup=0")
    assert "nothing is left to try" in watch.held("r")
    run = watch.run("r")
    tried = [run.attempt(intent["attempt"])["train"]["precision"] for intent in run.intents()]
    assert tried == ["amp_bf16", "fp32"]
    assert [(item["kind"], item["form"], item["epoch"]) for item in run.incidents()] == [("diverged", "nan", 1)] * 2
    assert "Start epoch 0" in (run.path / "attempts/2/out.log").read_text(), "as open_clip_train tells it"
    desk.resumed("r", "--force", "held", "--set", "train.optim.lr=1.0e-3")
    watch.completes("r")
    assert (len(run.intents()), run.attempt(3)["parent"]) == (3, None)
    assert [saved.epochs_done for saved in run.saved(3) if saved.sound] == [1, 2, 3]
