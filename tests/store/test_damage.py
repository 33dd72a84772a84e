"""A database that bytes were lost from: said in one line, made again in full, and nothing started in between."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from clipctl.domain import JobState
from clipctl.errors import ClipctlError, Damaged
from clipctl.ops.clock import SystemClock
from clipctl.ops.database import check, rebuild_database
from clipctl.store import home as homes, migrate, open_store
from tests.store import stories
from tests.store.racers import fork
from tests.store.tables_of import tables

Tables = dict[str, dict[tuple[object, ...], dict[str, object]]]


@pytest.fixture
def filled(home: Path) -> Path:
    """One run whose job may live, and some that ended."""
    with open_store(home) as store:
        stories.launched(store, home, "alive", nonce="a1")
        for number in range(4):
            name = f"run-{number}"
            stories.launched(store, home, name, nonce=f"n{number}")
            stories.write_events(stories.attempt_folder(home, name), stories.progress(1, step=1))
            stories.ingest(store, home, name)
            store.ended(f"n{number}", state=JobState.FAILED, basis="exit.json says code 1", time=200.0, exit_code=1)
    return homes.database(home)


def start_another(home: Path) -> str:
    """What is said when a second job is wanted for the run whose job lives."""
    try:
        with open_store(home) as store:
            store.intend("alive", stories.intent("a2"))
    except ClipctlError as error:
        return f"{type(error).__name__}: {error.message} ({error.hint})"
    return "started"


def make_again(home: Path) -> None:
    rebuild_database(home, roots=(), into=None, clock=SystemClock())


@pytest.mark.timeout(600)
def test_random_damage_is_found_and_mended_and_starts_nothing(
    filled: Path, home: Path, soak: Callable[[int, int], int]
) -> None:
    whole, before = filled.read_bytes(), tables(filled)
    draw = random.Random(int(os.environ.get("XSEED", "23")))
    found = 0
    for number in range(soak(9, 200)):
        data = bytearray(whole)
        for _ in range((1, 8, 200)[number % 3]):
            data[draw.randrange(len(data))] = draw.randrange(256)
        filled.write_bytes(data)
        said = start_another(home)
        assert said.startswith(("Refused: a job of run 'alive' may be alive", "Damaged", "NotFound", "Unavailable"))
        assert "\n" not in said
        assert "clipctl db rebuild" in said or not said.startswith("Damaged"), said
        if check(home).problems:
            found += 1
        else:
            assert tables(filled) == before, "the damage lies where nothing is"
        make_again(home)
        assert tables(filled) == before
        for aside in home.glob("clipctl.db.*"):
            aside.unlink()
    assert found >= number // 3


WRECKED: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "another file": lambda path: path.write_bytes(b"#!/bin/bash\necho hello\n" * 400),
    "deleted": lambda path: path.unlink(),
    "half written, with its journal": lambda path: (
        path.write_bytes(b"\xff" * 9000), path.with_name("clipctl.db-journal").write_bytes(b"\xd9\xd5\x05\xf9" * 999)
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRECKED)
def test_a_wrecked_database_is_named_and_moved_aside(filled: Path, home: Path, what: str) -> None:
    before = tables(filled)
    WRECKED[what](filled)
    wreck = filled.read_bytes() if filled.exists() else None
    assert start_another(home).endswith("(clipctl db rebuild)")
    assert len(check(home).problems) == 1
    make_again(home)
    assert tables(filled) == before
    assert start_another(home).startswith("Refused: a job of run 'alive' may be alive")
    asides = [path.read_bytes() for path in home.glob("clipctl.db.aside-*[0-9]")]
    assert asides == ([] if wreck is None else [wreck])


@pytest.mark.timeout(600)
def test_kill_9_of_a_rebuild_leaves_a_whole_database(filled: Path, home: Path, soak: Callable[[int, int], int]) -> None:
    """K15: the old one or the new one, at every moment."""
    before = tables(filled)
    draw = random.Random(3)
    for _ in range(soak(8, 300)):
        child = fork(lambda: make_again(home))
        time.sleep(draw.uniform(0.0, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert check(home).problems == ()
        assert tables(filled) == before


@pytest.mark.timeout(600)
def test_kill_9_of_a_migration_leaves_the_old_schema_or_the_new(
    tmp_path: Path, soak: Callable[[int, int], int]
) -> None:
    draw = random.Random(5)
    for number in range(soak(8, 300)):
        home = tmp_path / str(number)
        path = homes.prepare(home)
        with closing(homes.connect(path)) as old:
            migrate.migrate(old, path, steps=migrate.migrations()[:1])
        child = fork(lambda home=home: open_store(home).close())
        time.sleep(draw.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with open_store(home) as store:
            assert migrate.has_our_schema(store._connection)
            stories.launched(store, home)


def test_a_database_that_cannot_be_written_is_not_called_damaged(filled: Path, home: Path) -> None:
    """Its cure is another one than for damage."""
    before = filled.read_bytes()
    with open_store(home) as store:
        store._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(ClipctlError) as refusal:
            store.hold("alive", actor="ada", basis="later", time=400.0)
    assert not isinstance(refusal.value, Damaged)
    assert filled.read_bytes() == before
