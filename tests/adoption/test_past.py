"""The log of every version makes the same events."""

from __future__ import annotations

import math

import pytest

from clipctl.adoption.past import events_of, read_results
from tests.trainer.test_open_clip_log import BEFORE, VERSIONS, formatted
from trainer.contract import CheckpointManifest, Data, Event, Optim, Precision, Stream, TrainSpec
from trainer.open_clip_log import read_log

# As of `formatted`: 16 samples on each of 2 ranks, 20 steps an epoch.
TRAIN = TrainSpec(
    model="ViT-B-32",
    data=Data(train_data="/data/0.tar", train_num_samples=640, workers=1),
    epochs=4,
    batch_size=16,
    optim=Optim(warmup=5),
)


def past(*lines: str, files: tuple[int, ...] = (), results: tuple[dict[str, object], ...] = ()) -> tuple[Event, ...]:
    found, _ = read_log("".join(f"{line}\n" for line in lines).encode())
    manifests = [manifest(epochs) for epochs in files]
    return events_of(found, TRAIN, 2, checkpoints=manifests, evaluations=results, source="/logs/x", time=1.0)


def manifest(epochs: int, *, finite: bool = True) -> CheckpointManifest:
    return CheckpointManifest(
        file=f"epoch_{epochs}.pt", size=1, digest=f"sha256:{epochs}", run="x", attempt=1, epochs_done=epochs,
        step=20 * epochs, step_in_epoch=0, samples_seen=640 * epochs, loss=2.0, finite=finite,
        precision=Precision.AMP_FP16, stream=Stream(batch_size=16, ranks=2, workers=1), time=2e9,
    )  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_a_step_is_placed_by_its_samples(version: str) -> None:
    started, notice, progress = past(formatted(2, 3.5, version))
    assert (started.kind, started.epoch, started.step, started.samples_seen) == ("started", 3, 40, 1280)
    assert "taken over from /logs/x" in notice.facts["text"]
    assert (progress.kind, progress.epoch, progress.step, progress.samples_seen) == ("progress", 3, 44, 1408)
    assert (progress.facts["loss"], progress.facts["step_in_epoch"], progress.facts["steps_per_epoch"]) == (3.5, 4, 20)
    assert progress.facts["seconds"] == pytest.approx(4 * 0.4), "the mean of the steps since the last line"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_at_the_end_is_the_last_word(version: str, loss: float) -> None:
    events = past(formatted(0, 3.0, version), formatted(1, loss, version), formatted(2, loss, version), files=(1, 4))
    assert (events[-1].kind, events[-1].epoch, events[-1].facts["step_in_epoch"]) == ("diverged", 2, 4)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    recovered = past(formatted(1, loss, version), formatted(2, 3.0, version))
    assert [event.kind for event in recovered][-1] == "progress"


def test_what_was_not_finite_before_a_restart_is_past() -> None:
    start = [f"{BEFORE}Params:", f"{BEFORE}=> resuming checkpoint 'e.pt' (epoch 1)", f"{BEFORE}Start epoch 1"]
    events = past(f"{BEFORE}Start epoch 0", formatted(1, math.nan, "v2.0.0"), *start, files=(1,))
    kinds = [event.kind for event in events]
    assert kinds == ["started", "notice", "checkpoint", "progress", "started"]


def test_checkpoints_stand_behind_all_that_is_told_of_their_epoch() -> None:
    lines = [formatted(epoch, 3.0, "v2.0.0") for epoch in (0, 1, 1, 2)]
    lines.insert(3, f"{BEFORE}Eval Epoch: 2 imagenet-zeroshot-val-top1: 0.2500\timagenet-zeroshot-val-top5: 0.5000")
    told = [(event.kind, event.facts.get("epochs_done")) for event in past(*lines, files=(3, 2, 1))]
    step = ("progress", None)
    assert told[2:] == [
        step, ("checkpoint", 1), step, step, ("evaluated", 2), ("checkpoint", 2), step, ("checkpoint", 3),
    ]  # fmt: skip


def test_a_log_that_begins_later_or_not_at_all_still_has_its_checkpoints() -> None:
    kinds = [(event.kind, event.epoch) for event in past(formatted(2, 3.0, "v2.0.0"), files=(1, 2))]
    assert kinds == [("started", 3), ("notice", 3), ("checkpoint", 2), ("checkpoint", 3), ("progress", 3)]
    assert [event.kind for event in past(files=(1, 4))] == [
        "started",
        "notice",
        "checkpoint",
        "checkpoint",
        "completed",
    ]


def test_done_is_what_has_its_last_checkpoint_with_weights_that_are_finite() -> None:
    line = formatted(3, 3.0, "v2.0.0")
    assert past(line, files=(3,))[-1].kind == "progress"
    assert past(line, files=(3, 4))[-1].kind == "completed"
    found, _ = read_log(f"{line}\n".encode())
    spoilt = [manifest(4, finite=False)]
    events = events_of(found, TRAIN, 2, checkpoints=spoilt, evaluations=(), source="/logs/x", time=1.0)
    assert events[-1].kind == "checkpoint"


def test_each_start_is_counted_by_its_own_options() -> None:
    """Twice the ranks from the second start on: half of the steps."""
    start = [f"{BEFORE}Params:", f"{BEFORE}  world_size: 4", f"{BEFORE}  batch_size: 16", f"{BEFORE}Start epoch 1"]
    events = past(formatted(0, 3.0, "v2.0.0"), *start, formatted(1, 3.0, "v2.0.0"))
    steps = [(event.step, event.facts["steps_per_epoch"]) for event in events if event.kind == "progress"]
    assert steps == [(4, 20), (10 + 2, 10)]
    again = past(*start, f"{BEFORE}Params:", f"{BEFORE}Start epoch 1")
    assert [event.facts["steps_per_epoch"] for event in again if event.kind == "started"] == [10, 20]


def test_results_jsonl_is_used_where_it_has_as_many_lines() -> None:
    line = f"{BEFORE}Eval Epoch: 2 imagenet-zeroshot-val-top1: 0.2500"
    exact = {"imagenet-zeroshot-val-top1": 0.25004, "clip_val_loss": 1.5, "epoch": 2}
    (_, _, evaluated) = past(f"{BEFORE}Start epoch 1", line, results=(exact,))
    assert evaluated.facts == {"epochs_done": 2, "top1": 0.25004, "clip_val_loss": 1.5}
    (_, _, evaluated) = past(f"{BEFORE}Start epoch 1", line, results=(exact, exact))
    assert evaluated.facts == {"epochs_done": 2, "top1": 0.25}
    assert read_results('{"a": 1}\n{"b": 2}\n{"c"') == [{"a": 1}, {"b": 2}]


def test_lines_of_other_ranks_do_not_count() -> None:
    lines = formatted(0, 3.0, "v0.1"), formatted(0, 9.0, "v0.1").replace("Rank 0", "Rank 1")
    assert [event.facts["loss"] for event in past(*lines) if event.kind == "progress"] == [3.0]


def test_options_that_make_no_sense_are_not_believed() -> None:
    start = [f"{BEFORE}Params:", f"{BEFORE}  world_size: 0", f"{BEFORE}  batch_size: many", f"{BEFORE}Start epoch 0"]
    assert past(*start)[0].facts["steps_per_epoch"] == 20
