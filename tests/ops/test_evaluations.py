"""Evaluation jobs beside a run: the watchdog takes in what they left, and is not misled by them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from clipctl.domain import Accepted, JobIdentity, JobState, Rejected, RunState, Unknown
from clipctl.errors import Refused, Unavailable
from clipctl.ops import evaluate
from clipctl.ops.evaluate import Evaluating, Wish
from clipctl.ops.read.evaluations import evaluations
from clipctl.store.due import WEEK
from tests.ops.test_tick import completes, ticked
from tests.ops.theatre import Scheduler, Stage, demo
from tests.trainer.benchmark_sets import PROMPTS, write_set
from trainer.contract import Exit, dumps, write_atomic
from trainer.evaluation import Result, write_results

Stages = Callable[..., Stage]


@pytest.fixture
def run(stage: Stages) -> Stage:
    made = stage(demo())
    made.launch()
    made.save(1)
    made.look()
    return made


def begin(run: Stage, tmp_path: Path, epoch: int = 1) -> Evaluating:
    data = tmp_path / "sets"
    if not data.exists():
        write_set(data, "digits", [{"png": b"", "cls": b"0"}], files=PROMPTS)
    wish = Wish(epoch=epoch, suite="", datasets=("digits",), data=data)
    plan = evaluate.plan(run.run, wish, store=run.store, cluster=run.cluster)
    return evaluate.submit(plan, actor="ada", store=run.store, backend=run.scheduler, clock=run.time)


def leaves(run: Stage, begun: Evaluating, code: int, *results: Result) -> None:
    folder = run.folder.evaluation(begun.identity.nonce)
    write_results(folder.path, results)
    write_atomic(folder.exit, dumps(Exit(code=code, time=run.time.now())))
    run.scheduler.jobs.pop(begun.identity.nonce)


def states(run: Stage, home: Path) -> list[str]:
    return [each.state for each in evaluations(home, run.run).evaluations]


def test_a_tick_takes_in_what_a_job_left_once_and_asks_no_more_than_without_it(
    run: Stage, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[JobIdentity, ...]] = []
    poll = Scheduler.poll
    monkeypatch.setattr(Scheduler, "poll", lambda self, jobs: asked.append(tuple(jobs)) or poll(self, jobs))
    begun = begin(run, tmp_path)
    assert ticked(run).lines == () and states(run, home) == ["submitted"]
    assert run.state is RunState.RUNNING and len(run.scheduler.submitted) == 2
    leaves(run, begun, 0, Result(dataset="digits", metrics={"acc1": 0.75}, samples=4))
    assert ticked(run, act=False).lines == ()
    assert ticked(run).lines == ("tiny: evaluated: epoch 1 on digits, code 0",)
    assert ticked(run).lines == ()
    (found,) = evaluations(home, "tiny").evaluations
    assert (found.epoch, found.state, found.scores) == (1, "done", {"digits": {"acc1": 0.75}})
    newest = run.store.newest_job("tiny").identity.nonce
    beside = [newest, begun.identity.nonce]  # in the one question; of what has come to its end nobody is asked
    assert [[job.nonce for job in jobs] for jobs in asked] == [beside, [newest], [newest], [newest]]


def test_what_was_scored_before_a_job_failed_counts(run: Stage, home: Path, tmp_path: Path) -> None:
    begun = begin(run, tmp_path)
    scored = Result(dataset="digits", metrics={"acc1": 0.5}, samples=4)
    write_results(run.folder.evaluation(begun.identity.nonce).path, [scored])
    assert states(run, home) == ["running"]
    leaves(run, begun, 1, scored, Result(dataset="cars", error="OSError: cut"))
    assert states(run, home) == ["failed"]  # already before anybody took it in
    ticked(run)
    (found,) = evaluations(home, "tiny").evaluations
    assert (found.state, found.scores, found.errors) == ("failed", {"digits": {"acc1": 0.5}}, {"cars": "OSError: cut"})


@pytest.mark.parametrize("content", ["{", '{"dataset": "digits", "metrics": {"acc1": "high"}}\n', "[]\n", "\x00\n"])
def test_results_that_no_job_writes_are_none(content: str, run: Stage, home: Path, tmp_path: Path) -> None:
    begun = begin(run, tmp_path)
    leaves(run, begun, 0)
    run.folder.evaluation(begun.identity.nonce).results.write_text(content)
    ticked(run)
    assert evaluations(home, "tiny").evaluations[0].scores == {}


def test_a_run_that_has_completed_is_evaluated_too(run: Stage, home: Path, tmp_path: Path) -> None:
    completes(run)
    ticked(run)
    leaves(run, begin(run, tmp_path), 0, Result(dataset="digits", metrics={"acc1": 1.0}))
    assert ticked(run).lines == ("tiny: evaluated: epoch 1 on digits, code 0",)
    assert run.state is RunState.COMPLETED and run.store.run("tiny").attempts == 1


@pytest.mark.parametrize(("transient", "error"), [(False, Refused), (True, Unavailable)])
def test_a_refusal_is_told_and_kept(
    transient: bool, error: type[Exception], run: Stage, home: Path, tmp_path: Path
) -> None:
    run.scheduler.answer = Rejected(reason="Invalid qos specification", transient=transient)
    with pytest.raises(error, match="the scheduler refused: Invalid qos specification"):
        begin(run, tmp_path)
    (refused,) = evaluations(home, "tiny").evaluations
    assert (refused.state, refused.reason) == ("refused", "Invalid qos specification") and ticked(run).lines == ()
    run.scheduler.answer = Accepted(scheduler_id="18")
    begin(run, tmp_path)
    assert sorted(states(run, home)) == ["refused", "submitted"]


def test_an_answer_that_never_came_is_not_asked_for_again(run: Stage, home: Path, tmp_path: Path) -> None:
    run.scheduler.answer = Unknown(reason="socket timed out")
    begun = begin(run, tmp_path)
    assert isinstance(begun.answer, Unknown)
    ticked(run)
    assert states(run, home) == ["submitted"] and len(run.scheduler.submitted) == 2
    run.scheduler.jobs[begun.identity.nonce] = JobState.RUNNING
    leaves(run, begun, 0)
    ticked(run)
    (found,) = evaluations(home, "tiny").evaluations
    assert (found.state, found.reason) == ("done", ""), "what went wrong with the answer is no reason any more"


def test_a_row_that_cannot_be_read_hides_no_run(run: Stage, tmp_path: Path) -> None:
    begin(run, tmp_path)
    with closing(sqlite3.connect(run.store.path)) as connection, connection:
        connection.execute("UPDATE evaluations SET datasets = '{'")
    (line,) = ticked(run).lines
    assert line.startswith("evaluations: not taken in: ")


# --- killed without a word --------------------------------------------------------------------------


@pytest.fixture
def begun(run: Stage, tmp_path: Path) -> Evaluating:
    return begin(run, tmp_path)


def waits(run: Stage) -> None:
    run.time.sleep(run.cluster.limits.lost_after)


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.NODE_FAIL, JobState.TIMEOUT], ids=str)
def test_one_that_the_scheduler_calls_ended_has_failed(
    state: JobState, run: Stage, begun: Evaluating, home: Path
) -> None:
    run.scheduler.jobs[begun.identity.nonce] = state
    assert ticked(run).lines == () and states(run, home) == ["submitted"], "its exit.json may be on its way"
    waits(run)
    said = f"the scheduler says {state}"
    assert ticked(run).lines == (f"tiny: evaluated: epoch 1 on digits, {said}",)
    assert ticked(run).lines == ()
    (found,) = evaluations(home, "tiny").evaluations
    assert (found.state, found.reason) == ("failed", said)


def test_one_that_nobody_knows_any_more_has_failed_with_what_it_has_scored(
    run: Stage, begun: Evaluating, home: Path
) -> None:
    scored = Result(dataset="digits", metrics={"acc1": 0.5}, samples=4)
    write_results(run.folder.evaluation(begun.identity.nonce).path, [scored])
    del run.scheduler.jobs[begun.identity.nonce]
    waits(run)
    run.scheduler.reachable = False
    assert ticked(run).lines == () and states(run, home) == ["running"], "no answer says nothing"
    run.scheduler.reachable = True
    assert ticked(run).lines == ("tiny: evaluated: epoch 1 on digits, absent from the scheduler's answer",)
    (found,) = evaluations(home, "tiny").evaluations
    assert (found.state, found.scores) == ("failed", {"digits": {"acc1": 0.5}})


def test_one_that_lives_is_waited_for_and_only_looking_changes_nothing(
    run: Stage, begun: Evaluating, home: Path
) -> None:
    waits(run)
    ticked(run)
    assert states(run, home) == ["submitted"]
    del run.scheduler.jobs[begun.identity.nonce]
    ticked(run, act=False)
    assert states(run, home) == ["submitted"]


def test_one_of_another_host_is_not_missed(run: Stage, begun: Evaluating, home: Path) -> None:
    run.scheduler.host = "elsewhere"
    run.scheduler.jobs.clear()
    waits(run)
    ticked(run)
    assert states(run, home) == ["submitted"]


def test_one_that_was_never_answered_may_yet_come(run: Stage, home: Path, tmp_path: Path) -> None:
    run.scheduler.answer = Unknown(reason="socket timed out")
    begun = begin(run, tmp_path)
    waits(run)
    ticked(run)
    assert states(run, home) == ["submitted"]
    run.scheduler.jobs[begun.identity.nonce] = JobState.CANCELLED
    ticked(run)
    assert states(run, home) == ["failed"]


def test_one_that_was_never_answered_is_not_waited_for_for_ever(run: Stage, home: Path, tmp_path: Path) -> None:
    run.scheduler.answer = Unknown(reason="socket timed out")
    begin(run, tmp_path)
    run.time.sleep(WEEK)
    ticked(run)
    (found,) = evaluations(home, "tiny").evaluations
    assert (found.state, found.reason) == ("failed", "absent from the scheduler's answer")


def test_nobody_else_has_to_run_for_it_to_be_seen(run: Stage, home: Path, tmp_path: Path) -> None:
    completes(run)
    ticked(run)
    begun = begin(run, tmp_path)
    del run.scheduler.jobs[begun.identity.nonce]
    waits(run)
    ticked(run)
    assert states(run, home) == ["failed"] and run.state is RunState.COMPLETED
