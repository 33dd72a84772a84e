"""What policy may look at, as the store tells it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from clipctl.domain import WATCHDOG, Incident, IncidentKind, JobState
from clipctl.store.writer import Store
from tests.store import stories

CRASH = Incident(kind=IncidentKind.CRASHED, attempt=1, detail="out of shards")


def crashed(store: Store, home: Path) -> None:
    stories.launched(store, home)
    folder = stories.attempt_folder(home)
    stories.write_events(folder, stories.event(1, "started", step=0, nodes=["jwb0001", "jwb0001"]))
    stories.ingest(store, home, incident=CRASH)
    store.ended("n1", state=JobState.FAILED, basis="exit.json", time=500.0, exit_code=1)


def test_when_and_where_an_attempt_ended(store: Store, home: Path) -> None:
    stories.launched(store, home)
    attempt = store.history("digits").attempts[0]
    assert (attempt.ended_at, attempt.incident_at, attempt.nodes) == (None, None, ())


def test_a_crash_has_its_time_and_its_nodes(store: Store, home: Path) -> None:
    crashed(store, home)
    attempt = store.history("digits").attempts[0]
    assert (attempt.ended_at, attempt.nodes) == (500.0, ("jwb0001", "jwb0001"))
    assert attempt.incident == CRASH and attempt.incident_at is not None


def test_a_persons_word_opens_budgets_and_the_watchdogs_does_not(store: Store, home: Path) -> None:
    crashed(store, home)
    assert store.history("digits").set_going_at == 100.0, "launched"
    store.intend("digits", replace(stories.intent("n2", time=600.0), actor=WATCHDOG))
    store.ended("n2", state=JobState.FAILED, basis="exit.json", time=650.0)
    assert store.history("digits").set_going_at == 100.0
    store.hold("digits", actor="ada", basis="lunch", time=660.0)
    assert store.history("digits").set_going_at == 100.0
    store.release("digits", actor="ada", basis="back", time=700.0)
    assert store.history("digits").set_going_at == 700.0
    store.intend("digits", stories.intent("n3", time=800.0))
    assert store.history("digits").set_going_at == 800.0, "resumed"


@pytest.mark.parametrize(
    ("scheduler", "options", "exclude"),
    [
        ("local", {}, None),
        ("slurm", {}, ""),
        ("slurm", {"exclude": None}, ""),
        ("slurm", {"exclude": "jwb[1-3]"}, "jwb[1-3]"),
    ],
)
def test_which_nodes_the_run_as_launched_stays_away_from(
    store: Store, home: Path, scheduler: str, options: dict[str, str], exclude: str | None
) -> None:
    spec = json.loads(stories.spec("digits"))
    spec["spec"]["slurm"] = options
    new = replace(stories.new_run(home, "digits"), scheduler=scheduler, spec=json.dumps(spec))
    store.create(new, stories.intent("n1"))
    assert store.history("digits").exclude == exclude
