"""From the lines of out.log, as open_clip_train 3.3 formats them, to what is told of an attempt."""

from __future__ import annotations

import math
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.checkpoints import Fenced
from trainer.contract import Attempt, Data, EventKind, Phase, Precision, TrainSpec, ZeroShot
from trainer.position import Position
from trainer.schedule import Geometry
from trainer.unusable import Unusable
from trainer.verify import damage, read_manifest
from trainer.wrapper.follower import Follower, Log
from trainer.wrapper.publisher import Publisher

PREFIX = "2026-11-27,12:00:01 | INFO | "
GEOMETRY = Geometry(train_num_samples=128, batch_size=8, ranks=4, workers=1)  # 4 steps of 32


def line(epoch: int, step: int, loss: float) -> str:
    """Of step `step` (from 1) of epoch `epoch` (from 1)."""
    losses = f"Contrastive_loss: {loss:#.5g} ({loss:#.5g}) Loss: {loss:#.5g} ({loss:#.5g})"
    head = f"Train Epoch: {epoch - 1} [{step * 32:>3}/128 ({100.0 * step / 4:.0f}%)]"
    return (
        f"{head} Data (t): 0.100 Batch (t): 0.500, 64.0000/s, 16.0000/s/gpu LR: 0.000100 Logit Scale: 14.286 {losses}"
    )


class Told:
    """A recorder that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Position, dict[str, Any]]] = []

    last: Position | None = None

    def event(self, kind: EventKind, at: Position, **facts: Any) -> None:
        self.events.append((kind, at, facts))

    def beat(self, phase: Phase, at: Position, loss: float | None = None, speed: float | None = None) -> None: ...
    def scalars(self, values: Any, x: int) -> None: ...
    def close(self) -> None: ...

    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.events]


class Followed:
    """A follower of a file that grows."""

    def __init__(self, folder: Path, *, start: Position | None = None, foreign: bool = False, **changes: Any) -> None:
        data = Data(train_data="/x.tar", train_num_samples=128, workers=1)
        settings = {"epochs": 2, "precision": Precision.FP32} | changes
        spec = TrainSpec(model="m", data=data, batch_size=8, **settings)
        self.told, self.saved = Told(), []
        self.path = folder / "out.log"
        self.log = Log(self.path)
        left_off = {"loss": 3.0, "samples_per_second": 60.0}
        save = self.save
        self.follower = Follower(spec, start or Position(GEOMETRY), self.told, save, left_off, foreign)

    def save(self, at: Position, loss: float | None) -> None:
        self.saved.append((at.epochs_done, at.step_in_epoch, at.samples_seen, loss))

    def write(self, *texts: str, end: str = "\n") -> None:
        with open(self.path, "a") as file:
            file.write("".join(f"{PREFIX}{text}{end}" for text in texts))
        for fact in self.log.facts():
            self.follower.take(fact)


def test_a_line_is_told_once_it_is_whole_and_counts_as_all_steps_since_the_last(tmp_path: Path) -> None:
    followed = Followed(tmp_path)
    followed.write("Start epoch 0")
    assert followed.follower.phase is Phase.TRAINING
    followed.write(line(1, 1, 4.5)[:60], end="")
    assert followed.told.kinds() == []
    with open(followed.path, "a") as file:
        file.write(line(1, 1, 4.5)[60:] + "\n")
    followed.write(line(1, 3, 4.0))
    assert followed.told.kinds() == ["progress", "progress", "continued"]
    (_, first, _), (_, second, facts), (_, _, continued) = followed.told.events
    assert (first.step, first.samples_seen, second.step, second.samples_seen) == (1, 32, 3, 96)
    assert (facts["loss"], facts["seconds"], facts["data_seconds"], facts["samples_per_second"]) == (4.0, 1.0, 0.2, 64)
    assert continued["after"]["samples_per_second"] == 64


def test_a_checkpoint_is_looked_for_when_the_next_epoch_begins_or_the_process_has_ended(tmp_path: Path) -> None:
    followed = Followed(tmp_path, zeroshot=ZeroShot(data="/imagenet"))
    followed.write("Start epoch 0", line(1, 1, 4.5), line(1, 4, 4.0))
    assert followed.follower.phase is Phase.EVALUATING
    followed.write("Eval Epoch: 1 imagenet-zeroshot-val-top1: 0.1234\timagenet-zeroshot-val-top5: 0.3456")
    assert (followed.follower.phase, followed.saved) == (Phase.CHECKPOINTING, [])
    assert followed.told.events[-1][2] == {"epochs_done": 1, "top1": 0.1234, "top5": 0.3456}
    followed.write("Start epoch 1")
    assert followed.saved == [(1, 0, 128, 4.0)]
    followed.write(line(2, 1, 3.5))
    assert not followed.follower.completed()
    followed.write(line(2, 4, 3.0))
    assert followed.follower.completed()
    assert followed.saved[1:] == [(2, 0, 256, 3.0)]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_outside_float16_the_first_loss_that_is_not_finite_is_the_end(tmp_path: Path, loss: float) -> None:
    followed = Followed(tmp_path, precision=Precision.AMP_BF16)
    followed.write("Start epoch 0", line(1, 1, 4.5), line(1, 2, loss), line(1, 3, 4.0))
    onset = followed.follower.onset
    assert onset is not None
    assert (onset.at.step, str(onset.loss), onset.cause) == (2, str(loss), "loss")
    assert followed.told.kinds() == ["progress", "progress", "continued"], "what comes after it follows from it"


def test_in_float16_one_such_line_may_be_a_skipped_step_and_two_are_the_end(tmp_path: Path) -> None:
    followed = Followed(tmp_path, precision=Precision.AMP_FP16)
    followed.write("Start epoch 0", line(1, 1, math.nan), line(1, 2, 4.0), line(1, 4, math.nan))
    assert followed.follower.onset is None
    followed.write("Start epoch 1")
    assert followed.saved == []
    assert followed.told.events[-1][2]["text"] == "the loss is not finite: no checkpoint is published"
    followed.write(line(2, 1, math.inf))
    onset = followed.follower.onset
    assert onset is not None
    assert (onset.at.epochs_done, onset.at.step_in_epoch, onset.at.samples_seen) == (0, 4, 128)


def test_of_another_programs_parent_only_the_log_says_where_it_stands(tmp_path: Path) -> None:
    followed = Followed(tmp_path, foreign=True)
    followed.write("=> resuming checkpoint '/old/epoch_1.pt' (epoch 1)", "Start epoch 1", line(2, 1, 3.5))
    assert (followed.told.events[1][1].step, followed.told.events[1][1].samples_seen) == (5, 160)
    assert followed.told.events[0][2]["text"] == "the parent is not clipctl's: samples seen are computed"


def test_an_epoch_of_another_length_than_the_schedules_is_refused(tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    with pytest.raises(Unusable, match="starts epoch 2, and 1 is due"):
        Followed(tmp_path).write("Start epoch 1")
    with pytest.raises(Unusable, match="is at sample 160 of epoch 1, and 4 steps of 32 samples are due"):
        Followed(other).write("Start epoch 0", line(1, 5, 3.0))


def test_samples_that_its_pipeline_leaves_out_are_told_at_the_border(tmp_path: Path) -> None:
    followed = Followed(tmp_path)
    bad = "Handling webdataset error (ValueError('x')). Ignoring."
    followed.write("Start epoch 0", line(1, 1, 4.5), bad, bad, line(1, 4, 4.0))
    assert followed.told.events[-1][2]["text"].startswith("rank 0 left out 2 samples")


# --- what becomes of the files ------------------------------------------------------------------------

AT = Position(GEOMETRY, epochs_done=1, samples_seen=128)


def checkpoint(folder: Path, value: float) -> Path:
    path = folder / "checkpoints/epoch_1.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 1, "state_dict": {"w": torch.tensor([1.0, value]), "n": torch.tensor(3)}}, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run/attempts/1"
    folder.mkdir(parents=True)
    return folder


def published(folder: Path, *, mine: bool = True) -> tuple[Publisher, list[tuple[str, Position, dict[str, Any]]]]:
    data = Data(train_data="/x.tar", train_num_samples=128, workers=1)
    attempt = Attempt(run="run", number=1, ranks=4, train=TrainSpec(model="m", data=data, epochs=2, batch_size=8))
    told = Told()
    with closing(Publisher(attempt, folder, told, lambda: mine)) as publisher:
        publisher.publish(AT, 4.0)
        publisher.settle()
    return publisher, told.events


def test_a_whole_finite_file_becomes_a_checkpoint(folder: Path) -> None:
    path = checkpoint(folder, 2.0)
    publisher, events = published(folder)
    manifest = read_manifest(path)
    assert manifest is not None
    assert damage(path, manifest) is None
    assert (manifest.epochs_done, manifest.step, manifest.loss) == (1, 4, 4.0)
    assert [kind for kind, _, _ in events] == ["checkpoint"]
    assert publisher.newest == "checkpoints/epoch_1.pt"


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_one_with_weights_that_are_not_finite_does_not(folder: Path, value: float) -> None:
    path = checkpoint(folder, value)
    publisher, events = published(folder)
    assert (publisher.not_finite, publisher.newest, read_manifest(path)) == (AT, None, None)
    assert events[0][2]["text"] == "checkpoints/epoch_1.pt is not published: its weights are not finite"


def test_nor_one_that_is_cut_or_damaged(folder: Path) -> None:
    path = checkpoint(folder, 2.0)
    whole = path.read_bytes()
    values = struct.pack("<2f", 1.0, 2.0)
    assert whole.count(values) == 1
    for content in (whole[:-100], whole.replace(values, struct.pack("<2f", 1.0, 3.0))):
        path.write_bytes(content)
        publisher, events = published(folder)
        assert (publisher.newest, read_manifest(path)) == (None, None)
        assert "epoch_1.pt is not published: " in events[0][2]["text"]


def test_nor_one_of_an_attempt_that_no_longer_holds_the_run(folder: Path) -> None:
    path = checkpoint(folder, 2.0)
    with pytest.raises(Fenced, match=r"epoch_1\.pt is not published"):
        published(folder, mine=False)
    assert read_manifest(path) is None


def test_an_epoch_without_a_file_is_none(folder: Path) -> None:
    assert published(folder)[1] == []
