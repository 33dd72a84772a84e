"""Many processes at one store, and processes that are killed in it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clipctl.domain import JobState
from clipctl.layout import RunFolder
from clipctl.ops import read
from clipctl.ops.database import check
from clipctl.store import ledger, open_store
from tests.store import stories

ROOT = Path(__file__).parents[2]


def racers(mode: str, home: Path, count: int) -> list[str]:
    command = [sys.executable, "-m", "tests.store.racers", mode, str(home), str(count)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split()


def intents(home: Path) -> list[str]:
    return [entry["nonce"] for entry in ledger.entries(RunFolder.of(home, "digits")) if entry["kind"] == "intent"]


def test_of_twenty_that_launch_one_name_at_once_one_gets_it(home: Path) -> None:
    assert racers("create", home, 20) == ["0"] + ["5"] * 19
    with open_store(home) as store:
        (job,) = store.jobs_live()
        assert intents(home) == [job.identity.nonce]


def test_of_twenty_that_resume_at_once_one_gets_the_job(home: Path) -> None:
    with open_store(home) as store:
        stories.launched(store, home)
        store.ended("n1", state=JobState.FAILED, basis="test", time=2.0)
    assert racers("intend", home, 20) == ["0"] + ["5"] * 19
    with open_store(home) as store:
        (job,) = store.jobs_live()
        assert job.identity.attempt == 2
        assert intents(home) == ["n1", job.identity.nonce]


@pytest.mark.timeout(300)
def test_a_writer_that_is_killed_loses_nothing_that_it_said(home: Path, soak: Callable[[int, int], int]) -> None:
    with open_store(home) as store:
        stories.launched(store, home)
    racers("kill", home, soak(12, 500))
    said = [line.split() for line in (home / "acknowledged").read_text().splitlines()]
    assert len(said) > 10
    run = read.run_status(home, "digits", now=1.0).runs[0]  # the first look after the last kill
    with open_store(home) as store:
        assert store._connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        decided = store.decisions("digits")
        assert run.attempts == len(store.history("digits").attempts)
        assert len(store.jobs_live()) <= 1
    in_database = [(entry.kind, entry.facts["nonce"], entry.id) for entry in decided]
    assert {(kind, nonce) for kind, nonce in said} <= {(kind, nonce) for kind, nonce, _ in in_database}
    standing = [entry["id"] for entry in ledger.standing(RunFolder.of(home, "digits"))]
    assert {identity for *_, identity in in_database} <= set(standing)
    assert len(standing) <= len(in_database) + 1, "the last kill's; those of earlier ones were taken back"
    assert check(home).problems == ()


def test_a_line_without_its_row_is_all_that_a_kill_leaves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the line and the commit: the number is given again, under another nonce."""
    with open_store(home) as store:
        stories.launched(store, home)
        store.ended("n1", state=JobState.FAILED, basis="test", time=2.0)
        append = ledger.append

        def die_after(*arguments: object) -> None:
            append(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(ledger, "append", die_after)
        with pytest.raises(KeyboardInterrupt):
            store.intend("digits", stories.intent("n2"))
        monkeypatch.setattr(ledger, "append", append)
        assert store.intend("digits", stories.intent("n3")).attempt == 2
        assert intents(home) == ["n1", "n2", "n3"]


def test_a_database_that_sqlite_itself_finds_whole_after_many_writers(home: Path) -> None:
    racers("create", home, 4)
    check = sqlite3.connect(home / "clipctl.db")
    assert check.execute("PRAGMA foreign_key_check").fetchall() == []
    check.close()
