"""What processes printed: in order, to the end, and harmless to the terminal that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from clipctl.errors import NotFound
from clipctl.home import home
from clipctl.joblogs import first_to_leave, printable, read_lines, tail
from clipctl.journal import LocalFiles
from clipctl.ops import logs
from tests.ops.test_resume import Stages

FILES = LocalFiles()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("10%\r20%\r\ndone", "10%\n20%\ndone"),
        ("a\x9b31mb\x00\x08c", "a31mbc"),
        ("tab\tstays", "tab\tstays"),
        ("\u202egnp.exe", "gnp.exe"),
    ],
)
def test_what_a_terminal_would_obey_is_taken_out(text: str, shown: str):
    assert printable(text) == shown


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_ever_left(text: str):
    shown = printable(text)
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in shown)
    assert printable(shown) == shown


def test_a_line_is_shown_once_it_is_whole(tmp_path: Path):
    log = tmp_path / "rank_0.log"
    log.write_bytes(b"first\nsec")
    assert read_lines(FILES, log, 0) == (["first"], 6)
    log.write_bytes("first\nsecönd\n".encode())
    assert read_lines(FILES, log, 6) == (["secönd"], 14)
    assert read_lines(FILES, tmp_path / "none.log", 0) == ([], 0)


def test_the_tail_of_a_huge_log_is_read_from_its_end(tmp_path: Path):
    log = tmp_path / "rank_0.log"
    log.write_bytes(b"x" * 5_000_000 + b"\n\nlast but one\n\nlast")
    assert tail(FILES, log, 2) == ("last but one", "last")


def test_a_line_without_an_end_does_not_hold_up_the_rest(tmp_path: Path):
    log = tmp_path / "rank_0.log"
    log.write_bytes(b"x" * 3_000_000)
    lines, end = read_lines(FILES, log, 0)
    assert end == 1 << 20
    assert len(lines) == 1


def test_logs_of_an_attempt_by_rank_and_to_the_end(stage: Stages):
    run = stage()
    begun = run.launch()
    folder = run.folder.job(begun.identity.nonce).logs
    (folder / "script.log").write_text("script\n")
    for rank in (0, 1, 10):
        (folder / f"rank_{rank}.log").write_text(f"rank {rank}\nno newline")
    job = logs.job_of(home(), run.run, None)
    assert list(logs.lines(job, rank=None, alive=None, clock=run.time)) == [
        ("script.log", "script"),
        ("rank_0.log", "rank 0"),
        ("rank_0.log", "no newline"),
    ]
    assert [line.text for line in logs.lines(job, rank=10, alive=None, clock=run.time)] == ["rank 10", "no newline"]
    with pytest.raises(NotFound, match="no such log of attempt 1"):
        list(logs.lines(job, rank=7, alive=None, clock=run.time))
    with pytest.raises(NotFound, match="has no attempt 2"):
        logs.job_of(home(), run.run, 2)


def test_following_shows_what_comes_until_the_job_ends(stage: Stages):
    run = stage()
    begun = run.launch()
    log = run.folder.job(begun.identity.nonce).logs / "rank_0.log"
    log.write_text("one\n")
    coming = iter(["two\n", "three"])

    def alive() -> bool:
        with open(log, "a") as file:
            file.write(text := next(coming))
        return text.endswith("\n")

    job = logs.job_of(home(), run.run, 1)
    assert [line.text for line in logs.lines(job, rank=0, alive=alive, clock=run.time)] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("script", "rank"),
    [
        (("claimed", "rank 3 left with code 1; 3 others have 30 s", "rank 0 was killed by SIGTERM"), 3),
        (("srun: error: jwb0002: task 7: Exited with exit code 1", "srun: error: jwb0001: task 0: Killed"), 7),
        (("srun: error: jwb0002: tasks 4-7: Killed",), 4),
        (("rank and file", "see rank 3 left"), None),
        ((), None),
    ],
)
def test_the_rank_that_left_first_is_the_one_whose_log_tells_why(script: tuple[str, ...], rank: int | None):
    assert first_to_leave(script) == rank
