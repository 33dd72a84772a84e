"""A run's losses across its attempts, and how long a heart was still, as the store keeps them between looks."""

from __future__ import annotations

from pathlib import Path

from clipctl import journal
from clipctl.domain import JobState
from clipctl.journal import LocalFiles
from clipctl.ops import read
from clipctl.pulse import Pulse
from clipctl.series import TAIL
from clipctl.store import Steps
from clipctl.store.writer import Store
from tests.store import stories
from tests.store.test_read import finish, only, queues


def begun(store: Store, home: Path, *, steps: int) -> None:
    """The first attempt: a loss of 2 at each step, and a checkpoint after each whole epoch."""
    stories.launched(store, home)
    folder = stories.attempt_folder(home)
    stories.write_events(folder, stories.event(1, "started", step=0))
    stories.write_events(folder, *(stories.progress(step + 1, step=step) for step in range(1, steps + 1)))
    for epochs_done in range(1, steps // stories.STEPS + 1):
        stories.save(folder, epochs_done)
    stories.ingest(store, home)


def gone_on(store: Store, home: Path, *, after: int, steps: int) -> None:
    """The second attempt, from the end of an epoch."""
    finish(store, home, "n1", 1)
    store.intend("digits", stories.intent("n2", parent=stories.parent(stories.manifest(after))))
    folder, first = stories.attempt_folder(home, number=2), after * stories.STEPS
    stories.write_events(folder, stories.event(1, "started", step=first))
    events = (stories.progress(number + 1, step=first + number, loss=9.0) for number in range(1, steps + 1))
    stories.write_events(folder, *events)
    stories.ingest(store, home, number=2)


def test_losses_lead_from_attempt_to_attempt_without_what_was_rolled_back_over(store: Store, home: Path) -> None:
    begun(store, home, steps=34)
    gone_on(store, home, after=2, steps=3)
    series = store.series("digits", 2)
    assert [(point.attempt, point.step) for point in series.points[-5:]] == [
        (1, 19),
        (1, 20),
        (2, 21),
        (2, 22),
        (2, 23),
    ]
    assert len(series.points) == 23
    assert [point.since_start for point in series.points[-5:]] == [19, 20, 1, 2, 3]
    assert {point.batch for point in series.points} == {stories.SAMPLES}
    assert series.points[-1].loss == 9.0


def test_of_a_long_run_the_newest_stretch_is_read_and_before_that_a_few(store: Store, home: Path) -> None:
    begun(store, home, steps=400)
    points = store.series("digits", 1).points
    older, newest = points[:-TAIL], points[-TAIL:]
    assert [point.step for point in newest] == list(range(273, 401))
    assert [point.step for point in older] == list(range(1, 272, 5)), "every fifth of 272"
    assert all(point.sparse for point in older) and not any(point.sparse for point in newest)


def test_a_pace_with_another_precision_is_not_compared(store: Store, home: Path) -> None:
    begun(store, home, steps=20)
    finish(store, home, "n1", 1)
    settings = stories.train("fp32")
    store.intend("digits", stories.intent("n2", settings=settings, parent=stories.parent(stories.manifest(2))))
    folder = stories.attempt_folder(home, number=2)
    stories.write_events(folder, stories.progress(1, step=21))
    stories.ingest(store, home, number=2)
    paces = [point.pace for point in store.series("digits", 2).points]
    assert paces == [None] * 20 + [128.0]


def test_an_attempt_from_a_file_of_another_run_begins_a_line_of_its_own(store: Store, home: Path) -> None:
    stories.launched(store, home)
    assert store.series("digits", 1).points == ()
    store.ended("n1", state=JobState.FAILED, basis="exit.json", time=500.0)
    foreign = stories.parent(stories.manifest(2))
    store.intend("digits", stories.intent("n2", parent=type(foreign)(path="/elsewhere/epoch_2.pt", epochs_done=2)))
    assert store.series("digits", 2).points == ()


def test_a_pulse_is_kept_from_look_to_look(store: Store, home: Path) -> None:
    identity = stories.launched(store, home)
    assert store.job("n1").pulse is None
    pulse = Pulse(looked_at=1.0, counter=7, samples_seen=64, silent_for=30.0)
    store.went_on({(identity.run, identity.attempt): pulse}, {})
    assert store.job("n1").pulse == pulse


def test_steps_of_a_job_that_just_goes_on_are_stored_once_whoever_brings_them(store: Store, home: Path) -> None:
    """Two readers began at the same place: the second finds them there, be it this short way or the long one."""
    begun(store, home, steps=2)
    before = store.job("n1").cursor
    folder = stories.attempt_folder(home)
    stories.write_events(folder, *(stories.progress(step + 1, step=step) for step in (3, 4)))
    facts, after = journal.read(LocalFiles(), folder, before)
    steps = Steps(before=before.seq, after=after, events=facts.events)
    for _ in range(2):
        store.went_on({}, {("digits", 1): steps})
        stories.ingest(store, home)
    job = store.job("n1")
    assert job.cursor == after and job.landmarks.progress is not None and job.landmarks.progress.step == 4
    assert [point.step for point in store.series("digits", 1).points] == [1, 2, 3, 4]
    stories.write_events(folder, stories.progress(6, step=5))
    stories.ingest(store, home)
    store.went_on({}, {("digits", 1): steps})
    assert store.job("n1").cursor.seq == 6, "who comes late takes nothing back"


def test_status_sees_a_plateau_that_nobody_has_stored(store: Store, home: Path) -> None:
    """Chance is ln(64) = 4.16. The run goes on, and status says so."""
    begun(store, home, steps=20)
    folder = stories.attempt_folder(home)
    stories.write_events(folder, *(stories.progress(step + 1, step=step, loss=4.1) for step in range(21, 36)))
    run = only(home, queues=queues("n1"))
    assert run.state == "running"
    assert run.last_incident is not None
    assert (run.last_incident.kind, run.last_incident.form, run.last_incident.epoch) == ("diverged", "plateau", 3)
    assert store.history("digits").attempts[0].incident is None


def test_status_names_a_rise_that_may_still_come_back(store: Store, home: Path) -> None:
    begun(store, home, steps=20)
    folder = stories.attempt_folder(home)
    stories.write_events(folder, *(stories.progress(step + 1, step=step, loss=3.2) for step in (21, 22, 23)))
    view = read.run_status(home, "digits", now=1000.0, queues=queues("n1")).runs[0]
    assert view.last_incident is None
    assert any("the loss rose from 2 to 3.2" in note for note in view.notes)
