"""What people ask of runs that live, what is written down of it, and a database made again from that alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clipctl.errors import ExitStatus
from tests.e2e.conftest import Desk
from tests.store.tables_of import tables

LIGHT = ("train.engine=rehearsal", "resources.ranks_per_node=2", "train.zeroshot=null")
OVERFLOW = "train.faults=[{kind: overflow, at_epoch: 2, at_step: 2}]"
SLOW = "train.rehearsal.step_seconds=0.1"


def diverges_and_completes(desk: Desk, name: str) -> None:
    said = desk.launch(name, *LIGHT, "train.precision=amp_fp16", OVERFLOW, follow=True)
    assert said.code == ExitStatus.DIVERGED, said
    said = desk.clipctl("resume", name, "--epoch", "2", "--precision", "fp32", "-y", "--follow")
    assert said.code == 0, said


def saves_and_is_cancelled(desk: Desk, name: str) -> None:
    assert desk.launch(name, *LIGHT, "train.epochs=500", SLOW).code == 0
    desk.wait(name, lambda run: run["progress"]["step"] is not None)
    said = desk.clipctl("save-now", name)
    assert said.out == f"{name} saves at its next step, and goes on (request 1): clipctl checkpoints {name}\n", said
    desk.wait(name, lambda run: any(event.get("request") == 1 for event in desk.events(name, 1)))
    step = desk.status(name)["progress"]["step"]
    desk.wait(name, lambda run: run["progress"]["step"] > step)
    assert desk.clipctl("hold", name, "--reason", "disk to be moved").code == 0
    assert desk.clipctl("cancel", name).code == 0
    desk.wait(name, lambda run: run["state"] == "cancelled" and not run["job"]["live"])
    said = desk.clipctl("save-now", name)
    assert said.code == ExitStatus.REFUSED
    assert said.err.splitlines() == [
        f"error: run '{name}' is cancelled: no job of it can save now",
        f"hint: clipctl status {name}",
    ]


def without_the_lookers_patience(found: dict[str, dict[tuple[Any, ...], dict[str, Any]]]) -> dict[str, Any]:
    """Since when whoever looked saw nothing move is known to nobody else, and begins anew."""
    for row in found["attempts"].values():
        row["pulse"] = None
    return found


@pytest.mark.timeout(900)
def test_the_store_made_again_from_real_runs_is_what_it_was(desk: Desk, tmp_path: Path) -> None:
    diverges_and_completes(desk, "cured")
    saves_and_is_cancelled(desk, "asked")
    assert desk.clipctl("watchdog", "run").code == 0, "the last look stores what there is"
    before = without_the_lookers_patience(tables(desk.home / "clipctl.db"))
    kinds = {row["kind"] for row in before["decisions"].values()}
    assert kinds >= {"intent", "answer", "seen", "end", "incident", "checked", "hold", "cancel", "save"}

    said = desk.clipctl("db", "check")
    assert said.out == f"{desk.home}/clipctl.db says what the folders of its 2 runs say\n", said
    said = desk.clipctl("db", "rebuild", "--into", str(tmp_path / "again.db"))
    assert said.code == 0, said
    assert said.out.startswith(f"{tmp_path}/again.db: 2 runs, 3 attempts, 3 jobs, 0 standbys, "), said
    again = tables(tmp_path / "again.db")
    for table in before:
        assert again[table] == before[table], table

    logbook = json.loads(desk.clipctl("history", "asked", "--json").out)["lines"]
    told = [line["what"] for line in logbook]
    assert told == ["launch", "job", "started", "save-now", "saved", "hold", "cancel", "stopped", *told[8:]]
    assert set(told[8:]) == {"incident", "ended"}

    damaged = bytearray((desk.home / "clipctl.db").read_bytes())
    damaged[4096:8192] = bytes(4096)
    (desk.home / "clipctl.db").write_bytes(damaged)
    said = desk.clipctl("hold", "asked")
    assert (said.code, said.err.splitlines()[-1]) == (ExitStatus.UNAVAILABLE, "hint: clipctl db rebuild"), said
    assert desk.clipctl("db", "check").code == ExitStatus.UNAVAILABLE
    said = desk.clipctl("db", "rebuild")
    assert said.code == 0, said
    (aside,) = desk.home.glob("clipctl.db.aside-*")
    assert aside.read_bytes() == damaged
    assert tables(desk.home / "clipctl.db") == again
