"""Which word decides how a job ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.contract import Event, EventKind, ExitCode, dumps
from trainer.outcome import TAIL, last_word, main, verdict


def write(folder: Path, *kinds: str, end: str = "") -> None:
    events = [
        Event(seq=seq, time=0.0, kind=kind, epoch=1, step=seq, samples_seen=seq) for seq, kind in enumerate(kinds)
    ]
    (folder / "events.jsonl").write_text("".join(dumps(event) + "\n" for event in events) + end)


@pytest.mark.parametrize(
    ("kinds", "word"),
    [
        ((), None),
        (("started", "progress"), None),
        (("started", "progress", "completed"), EventKind.COMPLETED),
        (("started", "diverged", "notice"), EventKind.DIVERGED),
        (("started", "stopped", "started", "progress"), None),  # restarted since
        (("started", "stopped", "started", "completed"), EventKind.COMPLETED),
        (("started", "a newer version's word"), None),
    ],
)
def test_the_last_start_has_the_last_word(kinds: tuple[str, ...], word: EventKind | None, tmp_path: Path) -> None:
    write(tmp_path, *kinds)
    assert last_word(tmp_path) == word


@pytest.mark.parametrize("end", ['{"kind": "compl', "[]\n", "null\n", "\0\0\0\n", '{"seq": 1}\n'])
def test_a_torn_line_is_no_word(end: str, tmp_path: Path) -> None:
    write(tmp_path, "started", end=end)
    assert last_word(tmp_path) is None
    write(tmp_path, "started", "completed", end=end)
    assert last_word(tmp_path) == EventKind.COMPLETED


def test_an_attempt_that_wrote_nothing_has_no_word(tmp_path: Path) -> None:
    assert last_word(tmp_path) is None
    assert main([str(tmp_path), "137"]) == 137


def test_weeks_of_events_are_not_read_again(tmp_path: Path) -> None:
    write(tmp_path, "completed", *["progress"] * (TAIL // 64))
    assert last_word(tmp_path) is None  # it is the last line, or nearly
    write(tmp_path, *["progress"] * (TAIL // 64), "completed")
    assert last_word(tmp_path) == EventKind.COMPLETED


def test_no_word_and_no_code_ever_becomes_submitits_144() -> None:
    assert all(verdict(word, code) != 144 for word in (None, *EventKind) for code in range(256))


def test_a_crash_with_a_code_that_means_something_else_is_a_crash() -> None:
    for code in (ExitCode.COMPLETED, ExitCode.STOPPED, ExitCode.DIVERGED, ExitCode.FENCED, 1, 7, 144):
        assert verdict(EventKind.CRASHED, code) == ExitCode.CRASHED
