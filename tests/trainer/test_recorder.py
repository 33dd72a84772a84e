"""Rank 0's pen, on real files: whole lines, in order, whatever the disk does."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from trainer.charts import tensorboard
from trainer.contract import EventKind, Heartbeat, Phase, loads
from trainer.position import Position
from trainer.recorder import FileRecorder
from trainer.schedule import Geometry

AT = Position(Geometry(640, 32, 2, 1), epochs_done=1, step_in_epoch=3, samples_seen=832)


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_events_are_numbered_without_gaps_and_complete_when_it_is_closed(tmp_path: Path) -> None:
    recorder = FileRecorder(tmp_path)
    for number in range(500):
        recorder.event(EventKind.NOTICE, AT, text=f"number {number}")
    recorder.close()
    assert [line["seq"] for line in lines(tmp_path)] == list(range(1, 501))
    first = lines(tmp_path)[0]
    assert (first["schema"], first["kind"], first["text"]) == (1, "notice", "number 0")
    assert (first["epoch"], first["step"], first["samples_seen"]) == (2, 13, 832)


def test_a_second_start_of_the_same_attempt_goes_on_counting_behind_a_torn_line(tmp_path: Path) -> None:
    first = FileRecorder(tmp_path)
    first.event(EventKind.STARTED, AT)
    first.close()
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('{"seq": 2, "kind": "prog')  # the node died while it wrote
    second = FileRecorder(tmp_path)
    second.event(EventKind.STARTED, AT)
    second.close()
    whole = [line for line in (tmp_path / "events.jsonl").read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["seq"] for line in whole] == [1, 2]


def test_the_heartbeat_moves_while_training_does(tmp_path: Path) -> None:
    recorder = FileRecorder(tmp_path)
    seen = set()
    deadline = time.monotonic() + 30
    while len(seen) < 3 and time.monotonic() < deadline:
        recorder.beat(Phase.TRAINING, AT, loss=1.5)
        if (tmp_path / "heartbeat.json").exists():
            seen.add(loads(Heartbeat, (tmp_path / "heartbeat.json").read_text()).counter)
        time.sleep(0.01)
    recorder.close()
    assert len(seen) == 3
    last = loads(Heartbeat, (tmp_path / "heartbeat.json").read_text())
    assert last.counter >= max(seen)
    assert (last.phase, last.epoch, last.step, last.loss) == (Phase.TRAINING, 2, 13, 1.5)


def test_a_full_disk_does_not_stop_training_and_nothing_is_lost_once_there_is_room(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recorder = FileRecorder(tmp_path)
    (tmp_path / "events.jsonl").symlink_to("/dev/full")  # every write ends in ENOSPC
    recorder.event(EventKind.STARTED, AT)
    recorder.event(EventKind.NOTICE, AT, text="still here")
    deadline = time.monotonic() + 30
    said = ""
    while "No space left" not in said and time.monotonic() < deadline:
        said += capfd.readouterr().err
        time.sleep(0.01)
    (tmp_path / "events.jsonl").unlink()
    recorder.close()
    assert [line["kind"] for line in lines(tmp_path)] == ["started", "notice"]


def test_closing_on_a_full_disk_says_so(tmp_path: Path) -> None:
    before = threading.active_count()
    recorder = FileRecorder(tmp_path)
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    recorder.event(EventKind.STARTED, AT)
    with pytest.raises(OSError, match="No space left"):
        recorder.close()
    assert threading.active_count() == before


def test_tensorboard_gets_open_clips_names(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recorder = FileRecorder(tmp_path, tensorboard)
    recorder.scalars({"train/loss": 2.5}, 13)
    recorder.close()
    board = EventAccumulator(os.fspath(tmp_path / "tensorboard"))
    board.Reload()
    assert [(point.step, point.value) for point in board.Scalars("train/loss")] == [(13, 2.5)]
