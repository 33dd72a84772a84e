"""Intents, answers, events and decisions, in a real database with a real run folder beside it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from clipctl.domain import (
    CheckpointState,
    Cursor,
    Incident,
    IncidentKind,
    JobReport,
    JobState,
    JournalFacts,
    Rejected,
    RunState,
    Unknown,
)
from clipctl.errors import NotFound, Refused, Unavailable
from clipctl.layout import RunFolder
from clipctl.ops.database import check
from clipctl.store import Answer, home as homes, ledger
from clipctl.store.writer import Store
from tests.store import stories

NAN = Incident(
    kind=IncidentKind.DIVERGED, attempt=1, detail="loss nan", epoch=2, step_in_epoch=3, step=13, samples_seen=832
)


def end(store: Store, nonce: str = "n1", time: float = 500.0) -> None:
    store.ended(nonce, state=JobState.FAILED, basis="exit.json says code 86", time=time, exit_code=86)


def lines(home: Path, name: str = "digits") -> list[dict[str, object]]:
    return list(ledger.entries(RunFolder.of(home, name)))


# --- intents ----------------------------------------------------------------------------------------


def test_a_launch_is_a_run_an_attempt_and_a_job_before_anything_is_submitted(store: Store, home: Path) -> None:
    identity = store.create(stories.new_run(home, "digits"), stories.intent("n1"))
    assert (identity.run, identity.attempt, identity.nonce, identity.job_name) == (
        "digits",
        1,
        "n1",
        "clipctl-digits-id",
    )
    job = store.newest_job("digits")
    assert (job.live, job.answer, job.scheduler_id, job.report) == (True, None, None, None)
    assert store.run("digits").state is RunState.UNKNOWN  # a crash here: nobody knows whether it was submitted


def test_a_taken_name_is_refused_and_says_what_to_type(store: Store, home: Path) -> None:
    stories.launched(store, home)
    with pytest.raises(Refused, match="a run named 'digits' exists") as refusal:
        store.create(stories.new_run(home, "digits"), stories.intent("n2"))
    assert "clipctl resume digits" in refusal.value.hint
    assert [job.identity.nonce for job in store.jobs_live()] == ["n1"]


def test_a_second_job_is_refused_while_the_first_may_live(store: Store, home: Path) -> None:
    stories.launched(store, home)
    with pytest.raises(Refused, match="may be alive") as refusal:
        store.intend("digits", stories.intent("n2"))
    assert "clipctl cancel digits" in refusal.value.hint
    assert [entry["nonce"] for entry in lines(home) if entry["kind"] == "intent"] == ["n1"]
    assert len(store.history("digits").attempts) == 1


def test_the_database_itself_refuses_a_second_live_job(store: Store, home: Path) -> None:
    stories.launched(store, home)
    with sqlite3.connect(store.path) as other, pytest.raises(sqlite3.IntegrityError):
        other.execute(
            "INSERT INTO jobs (nonce, run, attempt, submitted_at, state, raw) VALUES ('x', 'digits', 1, 1, '', '')"
        )
    other.close()


def test_a_refused_submission_makes_room_and_the_next_attempt_has_the_next_number(store: Store, home: Path) -> None:
    store.create(stories.new_run(home, "digits"), stories.intent("n1"))
    store.answered("n1", Rejected(reason="invalid partition"), time=101.0)
    assert store.run("digits").state is RunState.STOPPED
    assert store.intend("digits", stories.intent("n2")).attempt == 2


def test_a_resume_can_give_a_run_more_epochs(store: Store, home: Path) -> None:
    identity = stories.launched(store, home)
    store.ended(identity.nonce, state=JobState.COMPLETED, basis="exit.json says code 0", time=200.0)
    longer = stories.train(epochs=77)
    store.intend(identity.run, stories.intent("n2", settings=longer))
    assert store.run(identity.run).epochs == 77


def test_an_unknown_answer_keeps_the_job_alive(store: Store, home: Path) -> None:
    store.create(stories.new_run(home, "digits"), stories.intent("n1"))
    store.answered("n1", Unknown(reason="socket timed out"), time=101.0)
    assert (store.newest_job("digits").answer, store.run("digits").state) == (Answer.UNKNOWN, RunState.UNKNOWN)
    with pytest.raises(Refused):
        store.intend("digits", stories.intent("n2"))


def test_runs_do_not_hinder_each_other(store: Store, home: Path) -> None:
    stories.launched(store, home, "one", nonce="n1")
    stories.launched(store, home, "two", nonce="n2")
    assert [job.identity.run for job in store.jobs_live()] == ["one", "two"]


# --- decisions.jsonl first --------------------------------------------------------------------------


def test_an_intent_says_all_that_the_database_makes_of_it(store: Store, home: Path) -> None:
    said = stories.manifest(1)
    store.create(stories.new_run(home, "digits"), stories.intent("n1"))
    end(store)
    store.intend("digits", stories.intent("n2", parent=stories.parent(said), patch={"train.precision": "fp32"}))
    first, _, last = lines(home)
    assert {
        "run",
        "run_id",
        "cluster",
        "epochs",
        "limits",
        "attempt",
        "nonce",
        "actor",
        "basis",
        "time",
    } <= first.keys()
    assert (last["attempt"], last["patch"], last["train"]) == (2, {"train.precision": "fp32"}, stories.train())
    assert last["parent"] == json.loads(json.dumps(vars(stories.parent(said))))


def test_what_cannot_be_written_down_is_not_decided(store: Store, home: Path) -> None:
    new = stories.new_run(home, "digits")
    shutil.rmtree(new.folder)
    with pytest.raises(Unavailable, match="nothing was decided"):
        store.create(new, stories.intent("n1"))
    with pytest.raises(NotFound):
        store.run("digits")


def test_a_torn_line_does_not_swallow_the_next(store: Store, home: Path) -> None:
    stories.launched(store, home)
    with RunFolder.of(home, "digits").decisions.open("a") as file:
        file.write('{"kind": "hold", "ba')
    store.hold("digits", actor="ada", basis="node 7 smells", time=300.0)
    assert [entry["kind"] for entry in lines(home)] == ["intent", "answer", "hold"]


def test_every_decision_is_in_both_places_with_basis_and_actor(store: Store, home: Path) -> None:
    stories.launched(store, home)
    stories.ingest(store, home, incident=NAN)
    end(store)
    store.hold("digits", actor="ada", basis="to look at it", time=600.0)
    store.release("digits", actor="bob", basis="looked at", time=601.0)
    store.cancel("digits", actor="bob", basis="enough", time=602.0)
    in_database = [(entry.kind, entry.actor, entry.basis, entry.id) for entry in store.decisions("digits")]
    assert in_database == [(entry["kind"], entry["actor"], entry["basis"], entry["id"]) for entry in lines(home)]
    kinds = [kind for kind, *_ in in_database]
    assert kinds == ["intent", "answer", "incident", "end", "hold", "release", "cancel"]


# --- events -----------------------------------------------------------------------------------------


def test_events_count_once_however_often_they_are_brought(store: Store, home: Path) -> None:
    stories.launched(store, home)
    events = tuple(stories.progress(seq, step=seq) for seq in (1, 2, 3))
    for _ in range(2):
        store.ingest("digits", 1, JournalFacts(events=events[:2]), Cursor(offset=20, inode=5, seq=2), time=300.0)
    store.ingest("digits", 1, JournalFacts(events=events), Cursor(offset=30, inode=5, seq=3), time=300.0)
    store.ingest(
        "digits", 1, JournalFacts(events=events[:1]), Cursor(offset=10, inode=5, seq=1), time=300.0
    )  # a late reader
    job = store.newest_job("digits")
    assert job.cursor == Cursor(offset=30, inode=5, seq=3)
    assert job.landmarks.progress == events[2]
    with sqlite3.connect(store.path) as other:
        assert other.execute("SELECT count(*) FROM events").fetchone() == (3,)
    other.close()


def test_a_job_that_its_site_started_again_has_not_said_its_last_word(store: Store, home: Path) -> None:
    stories.launched(store, home)
    folder = stories.attempt_folder(home)
    stories.write_events(folder, stories.event(1, "started", step=0), stories.event(2, "stopped", step=5))
    stories.ingest(store, home)
    assert store.job("n1").landmarks.final is not None
    stories.write_events(folder, stories.event(3, "started", step=5))
    stories.ingest(store, home)
    assert store.job("n1").landmarks.final is None
    stories.write_events(folder, stories.event(4, "started", step=5), stories.event(5, "completed", step=9))
    stories.ingest(store, home)
    final = store.job("n1").landmarks.final
    assert final is not None
    assert final.kind == "completed"


def test_an_event_comes_back_as_it_was_written(store: Store, home: Path) -> None:
    stories.launched(store, home)
    written = stories.event(1, "started", step=0, versions={"torch": "2.6"}, hosts=["a", "b"], loss=float("inf"))
    store.ingest("digits", 1, JournalFacts(events=(written,)), Cursor(offset=1, inode=1, seq=1), time=300.0)
    started = store.newest_job("digits").landmarks.started
    assert started is not None
    assert (started.facts["versions"], started.facts["hosts"], started.facts["loss"]) == (
        {"torch": "2.6"},
        ["a", "b"],
        "inf",
    )


def test_an_incident_is_told_once(store: Store, home: Path) -> None:
    stories.launched(store, home)
    for _ in range(3):
        stories.ingest(store, home, incident=NAN)
    assert store.history("digits").attempts[0].incident == NAN
    assert [entry["kind"] for entry in lines(home)].count("incident") == 1


def test_what_ended_a_job_takes_the_place_of_what_had_troubled_it(store: Store, home: Path) -> None:
    stories.launched(store, home)
    borne = Incident(kind=IncidentKind.STORAGE, attempt=1, detail="a second refusal ends it", alive=True)
    fatal = replace(borne, detail="No space left on device", alive=False)
    for incident in (borne, borne, fatal, fatal, borne):
        stories.ingest(store, home, incident=incident)
    assert store.history("digits").attempts[0].incident == fatal
    assert [entry["basis"] for entry in lines(home) if entry["kind"] == "incident"] == [borne.detail, fatal.detail]
    assert check(home).problems == ()


def test_checkpoints_follow_the_folder(store: Store, home: Path) -> None:
    stories.launched(store, home)
    folder = stories.attempt_folder(home)
    for epochs_done in (1, 2, 3):
        stories.save(folder, epochs_done)
    stories.ingest(store, home)
    paths = [record.path for record in store.history("digits").checkpoints]
    assert paths == [f"attempts/1/checkpoints/epoch_{n}.pt" for n in (1, 2, 3)]
    store.checked("digits", paths[1], CheckpointState.VERIFIED, time=450.0)
    (folder.checkpoints / "epoch_1.pt.json").unlink()  # pruned
    (folder.checkpoints / "epoch_3.pt").write_bytes(b"w" * 99)  # cut short
    stories.ingest(store, home)
    states = [record.state for record in store.history("digits").checkpoints]
    assert states == [CheckpointState.SUPERSEDED, CheckpointState.VERIFIED, CheckpointState.DAMAGED]


def test_what_was_found_damaged_is_not_good_again_because_its_size_fits(store: Store, home: Path) -> None:
    stories.launched(store, home)
    stories.save(stories.attempt_folder(home), 1)
    stories.ingest(store, home)
    store.checked("digits", "attempts/1/checkpoints/epoch_1.pt", CheckpointState.DAMAGED, time=450.0)
    stories.ingest(store, home)
    assert store.history("digits").checkpoints[0].state is CheckpointState.DAMAGED


# --- a run's way ------------------------------------------------------------------------------------


def test_the_state_follows_what_is_known(store: Store, home: Path) -> None:
    stories.launched(store, home)
    states = [store.run("digits").state]
    running = JobReport(nonce="n1", scheduler_id="4711", state=JobState.RUNNING, raw="R")
    for report in (running, None, running):
        store.observed("n1", report, time=200.0)
        states.append(store.run("digits").state)
    store.hold("digits", actor="ada", basis="later", time=300.0)
    states.append(store.run("digits").state)
    end(store)
    states.append(store.run("digits").state)
    store.release("digits", actor="ada", basis="now", time=600.0)
    states.append(store.run("digits").state)
    assert states == [
        RunState.QUEUED,
        RunState.RUNNING,
        RunState.UNKNOWN,
        RunState.RUNNING,
        RunState.RUNNING,
        RunState.HELD,
        RunState.STOPPED,
    ]


def test_a_job_is_missing_since_the_first_answer_without_it(store: Store, home: Path) -> None:
    stories.launched(store, home)
    store.observed("n1", None, time=200.0)
    store.observed("n1", None, time=260.0)
    assert store.newest_job("digits").missing_since == 200.0


def test_a_cancel_asks_for_the_live_job_and_a_person_may_resume_later(store: Store, home: Path) -> None:
    stories.launched(store, home)
    job = store.cancel("digits", actor="ada", basis="wrong data", time=300.0)
    assert job is not None
    assert (job.identity.nonce, job.cancel_requested) == ("n1", True)
    end(store)
    assert store.run("digits").state is RunState.CANCELLED
    assert store.cancel("digits", actor="ada", basis="again", time=301.0) is None
    store.intend("digits", stories.intent("n2"))
    assert store.run("digits").cancelled_at is None


def test_the_end_of_a_job_is_told_once(store: Store, home: Path) -> None:
    stories.launched(store, home)
    end(store, time=500.0)
    end(store, time=900.0)
    assert store.newest_job("digits").ended_at == 500.0
    assert [entry["kind"] for entry in lines(home)].count("end") == 1


def test_a_completed_run_is_completed_even_if_it_was_cancelled_too_late(store: Store, home: Path) -> None:
    stories.launched(store, home)
    stories.write_events(stories.attempt_folder(home), stories.event(1, "completed", step=40, seconds=9.0))
    stories.ingest(store, home)
    store.cancel("digits", actor="ada", basis="never mind", time=300.0)
    end(store)
    assert store.run("digits").state is RunState.COMPLETED


def test_the_history_is_what_policy_needs(store: Store, home: Path) -> None:
    stories.launched(store, home)
    stories.save(stories.attempt_folder(home), 1)
    stories.ingest(store, home, incident=NAN)
    end(store)
    patch = {"train.precision": "fp32", "train.batch_size": 48}
    settings = stories.train("fp32", batch_size=48)
    said = stories.manifest(1)
    store.intend("digits", stories.intent("n2", settings=settings, parent=stories.parent(said), patch=patch))
    history = store.history("digits")
    first, second = history.attempts
    assert (first.live, first.incident, first.parent_digest) == (False, NAN, None)
    assert (second.live, second.parent_digest, dict(second.patch)) == (True, said.digest, patch)
    assert history.checkpoints[0].manifest == said
    assert {str(key): dict(value) for key, value in history.profiles.items()} == {"fp32": {"train.batch_size": 48}}


@pytest.mark.parametrize("call", ["run", "history", "newest_job", "job"])
def test_what_is_not_there_is_not_found(store: Store, call: str) -> None:
    with pytest.raises(NotFound) as missing:
        getattr(store, call)("nothing")
    assert missing.value.hint == "clipctl status --all"


def test_a_locked_database_is_said_to_be_so(store: Store, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes, "BUSY_SECONDS", 0.1)
    stories.launched(store, home)
    blocker = sqlite3.connect(store.path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="locked") as locked, Store(home):
        pass
    blocker.close()
    assert locked.value.transient
    with Store(home) as again:
        assert again.run("digits").name == "digits"
