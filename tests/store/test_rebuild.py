"""The database made again from run folders: equal to what was there, table by table."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from clipctl.domain import Accepted, CheckpointState, Incident, IncidentKind, JobReport, JobState, Rejected, Unknown
from clipctl.errors import Damaged, Refused, Unavailable
from clipctl.layout import RunFolder
from clipctl.ops import read
from clipctl.ops.clock import SystemClock
from clipctl.ops.database import Rebuilt, check, rebuild_database
from clipctl.ops.read.logbook import history
from clipctl.store import home as homes, ledger, open_store
from clipctl.store.ledger import EntryKind
from clipctl.store.writer import Store
from tests.store import stories
from tests.store.tables_of import tables
from trainer.evaluation import Result

FIRST = "attempts/1/checkpoints/epoch_1.pt"
NAN = Incident(kind=IncidentKind.DIVERGED, attempt=1, detail="loss nan", epoch=2, step_in_epoch=3)


def rebuilt(home: Path, into: Path | None = None, *, roots: tuple[Path, ...] = ()) -> Rebuilt:
    return rebuild_database(home, roots=roots, into=into, clock=SystemClock())


def told(store: Store, home: Path) -> None:
    """Three runs, between them everything that is ever written down."""
    stories.launched(store, home)
    store.observed("n1", JobReport(nonce="n1", scheduler_id="4711", state=JobState.RUNNING, raw="R"), time=150.0)
    folder = stories.attempt_folder(home)
    stories.write_events(folder, stories.event(1, "started", step=0), stories.progress(2, step=5))
    said = stories.save(folder, 1)
    stories.write_events(
        folder, stories.event(3, "checkpoint", step=10, path="checkpoints/epoch_1.pt", manifest=vars(said))
    )
    stories.save(folder, 2)  # whose event is still on its way
    stories.ingest(store, home)
    store.checked("digits", FIRST, CheckpointState.VERIFIED, time=160.0)
    store.checked("digits", FIRST.replace("1.pt", "2.pt"), CheckpointState.DAMAGED, time=161.0)
    store.observed("n1", None, time=170.0)
    store.save("n1", 1, actor="ada", basis="asked for by a person", time=175.0)
    store.stop("n1", actor="watchdog", basis="stuck", time=180.0)
    stories.write_events(folder, stories.diverged(4, step=13))
    stories.ingest(store, home, incident=NAN)
    store.ended("n1", state=JobState.FAILED, basis="exit.json says code 86", time=190.0, exit_code=86)
    changed = {"train.precision": "fp32"}
    again = stories.intent("n2", time=200.0, parent=stories.parent(stories.manifest(1)), patch=changed)
    store.intend("digits", again)
    store.answered("n2", Unknown(reason="socket timed out"), time=201.0)
    store.observed("n2", JobReport(nonce="n2", scheduler_id="4712", state=JobState.PENDING, raw="PD"), time=210.0)
    _stood_by(store)
    _evaluated(store)
    stories.launched(store, home, "held", nonce="n3")
    store.hold("held", actor="ada", basis="disk to be moved", time=300.0)
    store.cancel("held", actor="bob", basis="enough", time=310.0)
    store.create(stories.new_run(home, "refused"), stories.intent("n4"))
    store.answered("n4", Rejected(reason="invalid account"), time=101.0)
    store.hold("refused", actor="ada", basis="wait", time=102.0)
    store.release("refused", actor="ada", basis="go", time=103.0)


def _stood_by(store: Store) -> None:
    """One that was withdrawn, one that was refused, and one that went on as attempt 5, behind which another waits."""
    for nonce in ("s3", "s4", "s5"):
        store.intend_standby("digits", 2, stories.intent(nonce, time=220.0))
        if nonce == "s4":
            store.standby_answered(nonce, Rejected(reason="too many jobs"), time=221.0)
            continue
        store.standby_answered(nonce, Accepted(scheduler_id="4713"), time=221.0)
        waiting = JobReport(nonce=nonce, scheduler_id="4713", state=JobState.PENDING, raw="PD")
        store.standby_observed(nonce, waiting, time=222.0)
        if nonce == "s3":
            store.standby_observed(nonce, None, time=223.0)
            store.withdraw(nonce, actor="ada", basis="the run is held", time=224.0)
            store.standby_ended(nonce, state=JobState.CANCELLED, basis="the scheduler says CANCELLED", time=225.0)
    store.ended("n2", state=JobState.TIMEOUT, basis="the scheduler says TIMEOUT", time=230.0)
    store.promote("s5", stories.parent(stories.manifest(1)), basis="goes on where attempt 2 ended", time=231.0)
    store.promote("s5", None, basis="another process is slower", time=232.0)
    store.intend_standby("digits", 5, stories.intent("s6", time=240.0))


def _evaluated(store: Store) -> None:
    """One that gave scores, but for a set; one refused, one that nobody has answered yet, and one that was killed."""
    for nonce in ("e1", "e2", "e3", "e4"):
        store.intend_evaluation(stories.evaluation(nonce), actor="ada", time=250.0)
    store.evaluation_answered("e1", Accepted(scheduler_id="4720"), time=251.0)
    store.evaluation_answered("e2", Rejected(reason="invalid qos"), time=252.0)
    scored = Result(dataset="cars", metrics={"acc1": 0.5, "acc5": 0.75}, samples=8)
    store.evaluated("e1", [scored, Result(dataset="dtd", error="cut")], exit_code=1, time=260.0)
    store.evaluated("e1", [], exit_code=0, time=261.0)  # another process is slower
    store.evaluation_answered("e4", Accepted(scheduler_id="4721"), time=262.0)
    store.evaluated("e4", [], exit_code=None, lost="the scheduler says NODE_FAIL", time=263.0)


def test_all_of_it_comes_back_from_the_folders(store: Store, home: Path, tmp_path: Path) -> None:
    told(store, home)
    made = rebuilt(home, tmp_path / "again.db")
    assert (made.left_out, made.counts["runs"], made.counts["attempts"]) == ((), 3, 5)
    here, again = tables(store.path), tables(tmp_path / "again.db")
    assert {row["state"] for row in again["checkpoints"].values()} == {"verified", "damaged"}
    assert {key: (row["epoch"], row["value"]) for key, row in again["scores"].items()} == {
        ("e1", "cars", "acc1"): (1, 0.5),
        ("e1", "cars", "acc5"): (1, 0.75),
    }
    assert [row["ended_at"] for row in again["evaluations"].values()] == [260.0, 252.0, None, 263.0]
    for table in here:
        assert again[table] == here[table], table
    assert check(home).problems == ()


def test_a_pruned_checkpoint_is_known_by_its_event(store: Store, home: Path, tmp_path: Path) -> None:
    stories.launched(store, home)
    folder = stories.attempt_folder(home)
    said = stories.save(folder, 1)
    event = stories.event(1, "checkpoint", step=10, path="checkpoints/epoch_1.pt", manifest=vars(said))
    stories.write_events(folder, event)
    stories.ingest(store, home)
    (folder.checkpoints / "epoch_1.pt.json").unlink()
    stories.ingest(store, home)
    assert store.history("digits").checkpoints[0].state is CheckpointState.SUPERSEDED
    rebuilt(home, tmp_path / "again.db")
    assert tables(tmp_path / "again.db")["checkpoints"] == tables(store.path)["checkpoints"] != {}


def test_a_file_that_was_out_of_sight_for_a_while_is_what_it_was(store: Store, home: Path) -> None:
    """As a network file system does it: the look at its bytes is not forgotten."""
    stories.launched(store, home)
    folder = stories.attempt_folder(home)
    stories.save(folder, 1)
    stories.ingest(store, home)
    store.checked("digits", FIRST, CheckpointState.VERIFIED, time=450.0)
    hidden = folder.checkpoints.rename(folder.path / "hidden")
    stories.ingest(store, home)
    hidden.rename(folder.checkpoints)
    stories.ingest(store, home)
    assert store.history("digits").checkpoints[0].state is CheckpointState.VERIFIED


def test_the_old_database_is_moved_aside_and_an_open_store_does_not_write_into_it(home: Path) -> None:
    with open_store(home) as store:
        told(store, home)
        before = tables(store.path)
        made = rebuilt(home)
        with pytest.raises(Unavailable, match="was replaced; nothing was decided"):
            store.hold("digits", actor="ada", basis="later", time=400.0)
    assert made.aside is not None
    assert tables(Path(made.aside)) == before == tables(homes.database(home))
    assert [line["kind"] for line in ledger.standing(RunFolder.of(home, "digits"))].count("hold") == 0
    assert homes.database(home).stat().st_mode & 0o777 == 0o600
    with open_store(home) as store:
        store.hold("digits", actor="ada", basis="later", time=401.0)


def test_a_database_that_is_gone_or_empty_is_not_taken_for_a_new_one(home: Path) -> None:
    with open_store(home) as store:
        told(store, home)
    before = tables(homes.database(home))
    for damage in (homes.database(home).unlink, lambda: homes.database(home).write_bytes(b"")):
        damage()
        for use in (lambda: open_store(home), lambda: read.status(home, now=1.0)):
            with pytest.raises(Damaged, match="it is gone or empty") as found:
                use()
            assert found.value.hint == "clipctl db rebuild"
        assert check(home).problems != ()
        rebuilt(home)
        assert tables(homes.database(home)) == before


def test_where_nothing_names_the_runs_a_root_does(home: Path, tmp_path: Path) -> None:
    with open_store(home) as store:
        told(store, home)
    before = tables(homes.database(home))
    homes.database(home).rename(tmp_path / "gone.db")
    (home / homes.FOLDERS).unlink()
    assert read.status(home, now=1.0).runs == ()
    rebuilt(home, roots=(home,))
    assert tables(homes.database(home)) == before
    assert set(homes.known_folders(home)) == {home / "runs" / name for name in ("digits", "held", "refused")}


def test_an_evaluation_that_only_its_folder_knows_is_told(store: Store, home: Path) -> None:
    """Until its files are there nobody has been told of it: a line that a killed command left had no effect."""
    stories.launched(store, home)
    folder = RunFolder.of(home, "digits")
    line = {"id": "x", "run": "digits", "kind": EntryKind.EVALUATION, "nonce": "e1", "time": 1.0}
    ledger.append(folder, line)
    assert check(home).problems == ()
    folder.evaluation("e1").path.mkdir(parents=True)
    assert "1 lines of" in check(home).problems[0]


def test_a_copy_from_before_starts_no_second_job(home: Path, tmp_path: Path) -> None:
    with open_store(home) as store:
        stories.launched(store, home)
        store.ended("n1", state=JobState.FAILED, basis="exit.json says code 1", time=190.0, exit_code=1)
        shutil.copy(store.path, tmp_path / "backup.db")
        identity = store.intend("digits", stories.intent("n2"))
        RunFolder.of(home, "digits").job(identity.nonce).path.mkdir(parents=True)
    shutil.copy(tmp_path / "backup.db", homes.database(home))
    with open_store(home) as store:
        with pytest.raises(Damaged, match="it does not have what") as refusal:
            store.intend("digits", stories.intent("n3"))
        with pytest.raises(Damaged):
            store.hold("digits", actor="ada", basis="later", time=400.0)
    assert refusal.value.hint == "clipctl db rebuild"
    assert "1 lines of" in check(home).problems[0]
    rebuilt(home)
    with open_store(home) as store, pytest.raises(Refused, match="may be alive"):
        store.intend("digits", stories.intent("n3"))


CHANGES = {
    "a job that lives is over": "UPDATE jobs SET ended_at = 5 WHERE nonce = 'n2'",
    "it is another job": "UPDATE jobs SET scheduler_id = '9' WHERE nonce = 'n2'",
    "other settings": "UPDATE attempts SET train = replace(train, 'amp_fp16', 'fp32')",
    "no hold": "UPDATE runs SET hold_reason = 'x'",
    "an attempt less": "DELETE FROM jobs WHERE nonce = 'n2'",
    "a decision less": "DELETE FROM decisions WHERE kind = 'stop'",
    "another end": "UPDATE incidents SET facts = replace(facts, 'nan', 'man')",
}


@pytest.mark.parametrize("what", CHANGES)
def test_rows_that_the_folder_does_not_bear_out_start_nothing(home: Path, what: str) -> None:
    with open_store(home) as store:
        told(store, home)
    with closing(sqlite3.connect(homes.database(home))) as changed, changed:
        changed.execute(CHANGES[what])
    assert [line.partition(":")[0] for line in check(home).problems][:1] == ["run digits"]
    with open_store(home) as store, pytest.raises(Damaged):
        store.intend("digits", stories.intent("n9"))


def test_a_line_whose_row_lost_a_byte_is_not_taken_for_one_without_effect(home: Path) -> None:
    with open_store(home) as store:
        told(store, home)
    folder = RunFolder.of(home, "held")
    before = folder.decisions.read_bytes()
    with closing(sqlite3.connect(homes.database(home))) as changed, changed:
        changed.execute("UPDATE decisions SET id = 'x' || substr(id, 2) WHERE kind = 'cancel'")
    with open_store(home) as store, pytest.raises(Damaged, match="it does not have what"):
        store.hold("held", actor="ada", basis="later", time=400.0)
    assert folder.decisions.read_bytes() == before


def test_rows_of_journals_are_checked_too(home: Path) -> None:
    with open_store(home) as store:
        told(store, home)
        stories.write_events(stories.attempt_folder(home), stories.progress(5, step=14))
        assert check(home).problems == (), "what nobody has read yet is no difference"
    with closing(sqlite3.connect(homes.database(home))) as changed, changed:
        changed.execute("UPDATE events SET line = replace(line, '2.0', '1.0') WHERE seq = 2")
        changed.execute("UPDATE checkpoints SET manifest = replace(manifest, '1.5', '1.4')")
    problems = check(home).problems
    assert problems[0] == "run digits: event 2 of attempt 1 is not as its folder has it"
    assert len(problems) == 3


def test_a_launch_that_was_killed_before_its_commit_is_a_run_again(home: Path) -> None:
    with open_store(home) as store:
        stories.launched(store, home, "other", nonce="n0")
        new, first = stories.new_run(home, "digits"), stories.intent("n1")
        store.create(new, first)
        with closing(sqlite3.connect(store.path)) as undone, undone:
            for table in ("decisions", "jobs", "attempts"):
                undone.execute(f"DELETE FROM {table} WHERE run = 'digits'")
            undone.execute("DELETE FROM runs WHERE name = 'digits'")
    assert check(home).problems == ()
    rebuilt(home)
    with open_store(home) as store:
        job = store.newest_job("digits")
        assert (job.live, job.answer) == (True, None), "to be looked for, as any submission without an answer"


def test_a_folder_that_does_not_say_enough_is_left_out_and_named(home: Path, tmp_path: Path) -> None:
    with open_store(home) as store:
        told(store, home)
    RunFolder.of(home, "held").run.unlink()
    ledger_of_refused = RunFolder.of(home, "refused").decisions
    ledger_of_refused.write_text(ledger_of_refused.read_text().replace('"settings_digest"', '"settings"'))
    made = rebuilt(home, tmp_path / "again.db")
    assert made.counts["runs"] == 1
    assert [line.partition(": ")[2][:30] for line in made.left_out] == [
        "run.json is not there, or no t",
        "decisions.jsonl is not what wa",
    ]
    rows = tables(tmp_path / "again.db")
    assert {row["run"] for row in rows["jobs"].values()} == {"digits"}


def test_what_the_disk_did_not_take_leaves_no_trace(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line was written, the commit was refused: it is taken back at once, and the name is free again."""
    with open_store(home) as store:
        stories.launched(store, home, "other", nonce="n0")
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        folder = RunFolder.of(home, "other")
        append = ledger.append

        def no_commit(*arguments: object) -> None:
            append(*arguments)  # type: ignore[arg-type]
            store._connection.execute("INSERT INTO decisions (id, run) VALUES ('x', 'y')")

        with monkeypatch.context() as patched, pytest.raises(sqlite3.IntegrityError):
            patched.setattr(ledger, "append", no_commit)
            store.hold("other", actor="ada", basis="later", time=400.0)
        assert pages == store._connection.execute("PRAGMA page_count").fetchone()[0]
    assert [line["kind"] for line in ledger.entries(folder)] == ["intent", "answer", "hold", "void"]
    assert [line["kind"] for line in ledger.standing(folder)] == ["intent", "answer"]
    assert check(home).problems == ()


def test_accepted_and_gone_before_it_was_written_down_is_adopted_in_both(home: Path, tmp_path: Path) -> None:
    with open_store(home) as store:
        store.create(stories.new_run(home, "digits"), stories.intent("n1"))
        found = JobReport(nonce="n1", scheduler_id="4711", state=JobState.RUNNING, raw="R")
        store.observed("n1", found, time=150.0)
        store.observed("n1", found, time=160.0)
        assert [line["kind"] for line in ledger.entries(RunFolder.of(home, "digits"))] == ["intent", "seen"]
        store.answered("n1", Accepted(scheduler_id="4711"), time=170.0)
    rebuilt(home, tmp_path / "again.db")
    assert tables(tmp_path / "again.db") == tables(homes.database(home))


def test_the_logbook_tells_of_jobs_that_stood_by(store: Store, home: Path) -> None:
    told(store, home)
    lines = [(line.attempt, line.what, line.text) for line in history(home, "digits", now=900.0).lines]
    assert (3, "withdraw", "the run is held") in lines
    assert (3, "ended", "never started: the scheduler says CANCELLED") in lines
    assert (4, "job", "rejected: too many jobs") in lines
    ((_, _, resumed),) = [line for line in lines if line[:2] == (5, "resume")]
    assert resumed.startswith("from attempts/1/checkpoints/epoch_1.pt; ")
    assert resumed.endswith("; goes on where attempt 2 ended")
    assert (1, "damaged", "attempts/1/checkpoints/epoch_2.pt: not the bytes that were written") in lines
    assert (2, "job", "is 4712, found") in lines
    assert (1, "save-now", "request 1: a checkpoint at the next step") in lines
    assert not [what for _, what, _ in lines if what in ("seen", "checked", "standby_seen")]
