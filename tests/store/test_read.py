"""What status, show and checkpoints say, from the store, the run folders and one answer of the scheduler."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clipctl.domain import (
    CheckpointState,
    Incident,
    IncidentKind,
    JobReport,
    JobState,
    QueueSnapshot,
    RunState,
    Unobservable,
)
from clipctl.errors import NotFound
from clipctl.journal import LocalFiles
from clipctl.layout import RunFolder
from clipctl.ops import read
from clipctl.ops.read import RunView
from clipctl.store.writer import Store
from tests.store import stories
from trainer.contract import Exit, dumps, to_jsonable

NOW = 1000.0


def queue(*nonces: str, state: JobState = JobState.RUNNING) -> QueueSnapshot:
    reports = {n: JobReport(nonce=n, scheduler_id="4711", state=state, raw=str(state)) for n in nonces}
    return QueueSnapshot(time=NOW, jobs=reports)


def queues(*nonces: str) -> read.Queues:
    return {"local": queue(*nonces)}


def only(home: Path, name: str = "digits", **more: object) -> RunView:
    (run,) = read.run_status(home, name, now=NOW, **more).runs
    return run


def finish(store: Store, home: Path, nonce: str, number: int, name: str = "digits", **more: object) -> None:
    stories.ingest(store, home, name, number, **more)
    store.ended(nonce, state=JobState.FAILED, basis="exit.json", time=500.0, exit_code=86)


def diverge(store: Store, home: Path) -> None:
    """The first attempt: two epochs done and saved, nan in the third."""
    stories.launched(store, home)
    folder = stories.attempt_folder(home)
    stories.write_events(
        folder,
        stories.event(1, "started", step=0, versions={"torch": "2.6"}, hosts=["jwb0001"]),
        stories.progress(2, step=20),
    )
    for epochs_done in (1, 2):
        stories.save(folder, epochs_done)
    stories.write_events(folder, stories.diverged(3, step=24))


# --- status -----------------------------------------------------------------------------------------


def test_without_a_store_there_are_no_runs_and_none_is_made(tmp_path: Path) -> None:
    home = tmp_path / "never"
    assert read.status(home, now=NOW).runs == ()
    assert (read.run_names(home), read.resumable(home, now=NOW), read.jobs_live(home)) == ((), (), ())
    assert not home.exists()


def test_status_tells_what_the_nodes_wrote_since_the_store_last_heard(store: Store, home: Path) -> None:
    stories.launched(store, home)
    folder = stories.attempt_folder(home)
    stories.write_events(folder, stories.event(1, "started", step=0), stories.progress(2, step=3, loss=2.5))
    stories.ingest(store, home)
    stories.write_events(folder, *(stories.progress(seq, step=seq, loss=2.0) for seq in range(3, 15)))
    stories.beat(folder, step=16)
    run = only(home, queues=queues("n1"))
    place = run.progress
    assert (run.state, run.phase, run.last_sign_of_life) == (RunState.RUNNING, "training", 316.0)
    assert (place.epoch, place.epochs, place.step, place.step_in_epoch, place.steps_per_epoch) == (2, 4, 16, 6, 10)
    assert (place.samples_seen, place.loss, place.samples_per_second) == (16 * stories.SAMPLES, 2.0, 128.0)
    assert place.eta_seconds == (40 - 16) * stories.SAMPLES / 128.0
    assert (run.precision, run.batch_size, run.ranks, run.attempts) == ("amp_fp16", 32, 2, 1)
    assert run.next == "clipctl logs digits -f"


def test_a_divergence_is_told_before_anybody_ingested_it_with_the_command_to_type(store: Store, home: Path) -> None:
    diverge(store, home)
    stories.ingest(store, home)  # as far as the checkpoints
    run = only(home, queues=queues("n1"))
    assert run.state is RunState.STOPPED
    assert run.last_incident is not None
    where = (run.last_incident.kind, run.last_incident.epoch, run.last_incident.step_in_epoch, run.last_incident.step)
    assert where == (IncidentKind.DIVERGED, 3, 4, 24)
    assert run.next == "clipctl resume digits --epoch 2 --precision fp32"
    assert store.history("digits").attempts[0].incident is None  # nothing was written


def test_the_same_is_told_from_checkpoints_that_only_the_folder_knows(store: Store, home: Path) -> None:
    diverge(store, home)
    assert only(home).next == "clipctl resume digits --epoch 2 --precision fp32"


def test_the_last_checkpoint_is_the_newest_that_was_announced_or_listed(store: Store, home: Path) -> None:
    stories.launched(store, home)
    folder = stories.attempt_folder(home)
    stories.save(folder, 1)
    stories.write_events(folder, stories.progress(1, step=10))
    stories.ingest(store, home)
    first = only(home).last_checkpoint
    said = {"path": "checkpoints/epoch_2.pt", "digest": "sha256:x", "epochs_done": 2, "step_in_epoch": 0}
    stories.write_events(folder, stories.event(2, "checkpoint", step=20, **said))
    second = only(home).last_checkpoint
    assert first is not None
    assert second is not None
    assert (first.path, first.epochs_done) == ("attempts/1/checkpoints/epoch_1.pt", 1)
    assert (second.path, second.epochs_done, second.digest) == ("attempts/1/checkpoints/epoch_2.pt", 2, "sha256:x")


def test_a_killed_run_is_unknown_until_patience_ends_and_then_lost(store: Store, home: Path) -> None:
    stories.launched(store, home, lost_after=60.0)
    stories.write_events(stories.attempt_folder(home), stories.progress(1, step=3))
    gone = only(home, queues=queues())
    assert (gone.state, gone.next) == (RunState.UNKNOWN, "clipctl resume digits")
    assert "does not list its job" in gone.notes[0]
    store.observed("n1", None, time=NOW - 61)
    lost = only(home, queues=queues())
    assert lost.last_incident is not None
    assert (lost.state, lost.last_incident.kind) == (RunState.STOPPED, IncidentKind.LOST)


def test_an_exit_file_ends_a_run_whatever_the_queue_says(store: Store, home: Path) -> None:
    stories.launched(store, home)
    job = RunFolder.of(home, "digits").job("n1")
    job.path.mkdir(parents=True)
    job.exit.write_text(dumps(Exit(code=137, time=3.0)))
    for answers in ({}, queues(), {"local": Unobservable(reason="down")}):
        run = only(home, queues=answers)
        assert run.last_incident is not None
        assert (run.state, run.last_incident.kind) == (RunState.STOPPED, IncidentKind.CRASHED)


def test_a_job_that_ended_unwatched_is_not_called_running(store: Store, home: Path) -> None:
    stories.launched(store, home)
    store.observed("n1", queue("n1").jobs["n1"], time=200.0)
    store.cancel("digits", actor="ada", basis="x", time=201.0)
    folder = RunFolder.of(home, "digits").job("n1")
    folder.path.mkdir(parents=True)
    folder.exit.write_text(dumps(Exit(code=0, time=3.0)))
    run = only(home)
    assert run.job is not None
    assert (run.job.state, run.job.live, run.notes) == (JobState.COMPLETED, False, ())


def test_a_scheduler_that_does_not_answer_changes_nothing_but_is_said(store: Store, home: Path) -> None:
    stories.launched(store, home)
    store.observed("n1", queue("n1").jobs["n1"], time=200.0)
    answer = read.status(home, now=NOW, queues={"local": Unobservable(reason="squeue: timed out after 10 s")})
    assert (answer.scheduler, answer.runs[0].state) == ("local: squeue: timed out after 10 s", RunState.RUNNING)


def test_run_folders_that_are_gone_leave_what_the_store_knew(store: Store, home: Path) -> None:
    stories.launched(store, home)
    stories.write_events(stories.attempt_folder(home), stories.progress(1, step=3))
    stories.ingest(store, home)
    shutil.rmtree(home / "runs")
    assert only(home).progress.step == 3


class Hanging(LocalFiles):
    """A file server that went away: reads wait until the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def read(self, path: Path, offset: int, size: int) -> bytes:
        self.over.wait()
        return super().read(path, offset, size)


class Broken(LocalFiles):
    def read(self, path: Path, offset: int, size: int) -> bytes:
        raise OSError(116, os.strerror(116))


def test_a_file_system_that_hangs_is_not_waited_for(store: Store, home: Path) -> None:
    for number in range(4):
        stories.launched(store, home, f"run-{number}", nonce=f"n{number}")
    files = Hanging()
    answer = read.status(home, now=NOW, files=files, patience=0.2)
    files.over.set()
    assert [run.state for run in answer.runs] == [RunState.QUEUED] * 4
    assert all("did not answer" in run.notes[0] for run in answer.runs)


def test_a_file_system_that_fails_is_said_so(store: Store, home: Path) -> None:
    stories.launched(store, home)
    run = only(home, files=Broken())
    assert run.state is RunState.QUEUED
    assert "could not be read" in run.notes[0]


def test_status_lists_what_lives_or_is_held_and_the_newest(store: Store, home: Path) -> None:
    for number in range(30):
        name = f"run-{number:02}"
        store.create(stories.new_run(home, name), stories.intent(f"n{number}", time=float(number)))
        if number not in (1, 2):
            store.ended(f"n{number}", state=JobState.FAILED, basis="test", time=50.0)
        if number == 0:
            store.hold(name, actor="ada", basis="x", time=60.0)
    answer = read.status(home, now=NOW)
    newest = [f"run-{number:02}" for number in range(29, 9, -1)]
    assert [run.name for run in answer.runs] == [*newest, "run-02", "run-01", "run-00"]
    assert answer.total == 30
    assert len(read.status(home, now=NOW, everything=True).runs) == 30
    assert read.run_names(home)[0] == "run-29"
    assert [job.identity.run for _, job in read.jobs_live(home)] == ["run-01", "run-02"]


@pytest.mark.parametrize(
    ("decide", "state", "command"),
    [
        (lambda store: None, RunState.STOPPED, "clipctl resume digits"),
        (lambda store: store.hold("digits", actor="a", basis="b", time=1.0), RunState.HELD, "clipctl release digits"),
        (
            lambda store: store.cancel("digits", actor="a", basis="b", time=1.0),
            RunState.CANCELLED,
            "clipctl resume digits --force cancelled",
        ),
    ],
)
def test_the_next_command_of_a_run_that_ended(store: Store, home: Path, decide, state, command) -> None:  # type: ignore[no-untyped-def]
    stories.launched(store, home)
    finish(store, home, "n1", 1)
    decide(store)
    run = only(home)
    assert (run.state, run.next) == (state, command)
    assert [item.name for item in read.resumable(home, now=NOW)] == (["digits"] if state is RunState.STOPPED else [])


def test_a_run_that_carries_faults_says_so(store: Store, home: Path) -> None:
    settings = stories.train(faults=[{"kind": "overflow", "at_epoch": 2, "at_step": 10}])
    store.create(stories.new_run(home, "digits"), stories.intent("n1", settings=settings))
    assert only(home).faults == ("overflow",)


def test_an_unknown_name_is_not_found(store: Store, home: Path) -> None:
    for call in (read.run_status, read.show):
        with pytest.raises(NotFound, match="no run 'nothing'"):
            call(home, "nothing", now=NOW)
    with pytest.raises(NotFound):
        read.checkpoints(home, "nothing")


# --- show and checkpoints ---------------------------------------------------------------------------


def resumed(store: Store, home: Path) -> None:
    diverge(store, home)
    nan = Incident(kind=IncidentKind.DIVERGED, attempt=1, detail="loss nan", epoch=3, step_in_epoch=4)
    finish(store, home, "n1", 1, incident=nan)
    settings = stories.train("fp32", batch_size=48, optim={"lr": 0.0005})
    patch = {"train.precision": "fp32", "train.batch_size": 48, "train.optim.lr": 0.0005}
    parent = stories.parent(stories.manifest(1))
    store.intend(
        "digits", stories.intent("n2", basis="fp32 after amp_fp16", settings=settings, parent=parent, patch=patch)
    )


def test_a_batch_is_all_forward_passes_of_a_step(store: Store, home: Path) -> None:
    stories.launched(store, home, settings=stories.train(accum_freq=4))
    folder = stories.attempt_folder(home)
    stories.write_events(folder, stories.event(1, "started", step=0), stories.progress(2, step=10, loss=2.5))
    stories.beat(folder, step=10)
    stories.ingest(store, home)
    run = only(home, queues=queues("n1"))
    assert (run.batch, run.progress.eta_seconds) == ("2 x 32 x 4", 30 * 4 * stories.SAMPLES / 128.0)
    assert read.show(home, "digits", now=NOW).lineage[0].batch == "2 x 32 x 4"
    assert [point.batch for point in store.series("digits", 1).points] == [4 * stories.SAMPLES]


def test_show_draws_from_which_checkpoint_and_why_each_attempt_began(store: Store, home: Path) -> None:
    resumed(store, home)
    shown = read.show(home, "digits", now=NOW)
    first, second = shown.lineage
    assert (first.parent_attempt, first.changes, first.final, first.cause) == (None, (), "diverged", "launched")
    assert (dict(first.versions), first.hosts) == ({"torch": "2.6"}, ("jwb0001",))
    assert first.incident is not None
    assert first.incident.epoch == 3
    assert (second.parent_attempt, second.parent_path) == (1, "attempts/1/checkpoints/epoch_1.pt")
    assert (second.cause, second.actor) == ("fp32 after amp_fp16", "ada")
    changes = [(change.path, change.before, change.after) for change in second.changes]
    assert changes == [("batch_size", 32, 48), ("optim.lr", 0.001, 0.0005), ("precision", "amp_fp16", "fp32")]
    assert shown.spec["train"]["model"] == "ViT-digits-32"
    assert [job.nonce for job in second.jobs] == ["n2"]


def test_the_tree_ends_as_the_newest_attempt_did_though_nobody_watched(store: Store, home: Path) -> None:
    stories.launched(store, home)
    folder, job = stories.attempt_folder(home), RunFolder.of(home, "digits").job("n1")
    stories.write_events(folder, stories.event(1, "started", step=0, hosts=["jwb0001"]), stories.progress(2, step=40))
    stories.write_events(folder, stories.event(3, "completed", step=40))
    job.path.mkdir(parents=True)
    job.exit.write_text(dumps(Exit(code=0, time=3.0)))
    (attempt,) = read.show(home, "digits", now=NOW).lineage
    assert (attempt.live, attempt.final, attempt.samples_seen) == (False, "completed", 40 * stories.SAMPLES)
    assert attempt.hosts == ("jwb0001",)
    assert [job.live for job in attempt.jobs] == [False]


def test_a_resumed_run_shows_its_parent_until_it_saves(store: Store, home: Path) -> None:
    resumed(store, home)
    run = only(home)
    assert run.last_checkpoint is not None
    assert (run.last_checkpoint.path, run.attempts) == ("attempts/1/checkpoints/epoch_1.pt", 2)
    assert run.last_incident is not None
    assert run.last_incident.attempt == 1


def test_checkpoints_are_what_lies_there_with_what_is_known_of_it(store: Store, home: Path) -> None:
    stories.launched(store, home)
    folder = stories.attempt_folder(home)
    for epochs_done in (1, 2, 3):
        stories.save(folder, epochs_done)
    stories.ingest(store, home)
    store.checked("digits", "attempts/1/checkpoints/epoch_2.pt", CheckpointState.VERIFIED, time=450.0)
    (folder.checkpoints / "epoch_1.pt.json").unlink()
    (folder.checkpoints / "epoch_3.pt").write_bytes(b"")
    stories.save(folder, 4)
    (folder.checkpoints / "tmp.pt").write_bytes(b"x")
    found = read.checkpoints(home, "digits").checkpoints
    assert [(item.epochs_done, str(item.state)) for item in found] == [
        (1, "superseded"),
        (2, "verified"),
        (3, "damaged"),
        (4, "complete"),
    ]


# --- the form ---------------------------------------------------------------------------------------


def test_json_has_a_schema_and_the_names_that_scripts_use(store: Store, home: Path) -> None:
    resumed(store, home)
    document = json.loads(json.dumps(to_jsonable(read.status(home, now=NOW)), allow_nan=False))
    (run,) = document["runs"]
    assert document["schema"] == 1
    assert (run["name"], run["state"], run["attempts"]) == ("digits", "unknown", 2)
    assert run["last_incident"]["kind"] == "diverged"
    assert {"epoch", "epochs", "step", "samples_seen", "loss", "samples_per_second"} <= run["progress"].keys()
    assert run["next"].startswith("clipctl ")


def test_reading_imports_nothing_heavy() -> None:
    heavy = {"pydantic", "sqlmodel", "sqlalchemy", "typer", "rich", "submitit", "torch", "jinja2", "ruamel"}
    code = "import sys, clipctl.ops.read; print(*{name.partition('.')[0] for name in sys.modules})"
    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(said.stdout.split())
