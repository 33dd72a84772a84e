"""Where a run stands, as a table of what is known."""

from __future__ import annotations

import itertools

import pytest

from clipctl.domain import ENDED_STATES, JobState, RunState
from clipctl.run_state import RunFacts, run_state

PENDING, RUNNING, UNKNOWN = JobState.PENDING, JobState.RUNNING, JobState.UNKNOWN


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        # the job may live
        (RunFacts(submitted=False), RunState.UNKNOWN),  # clipctl died before it knew the answer
        (RunFacts(), RunState.QUEUED),  # accepted, and nothing heard since
        (RunFacts(job=PENDING), RunState.QUEUED),
        (RunFacts(job=JobState.REQUEUED), RunState.QUEUED),
        (RunFacts(job=RUNNING), RunState.RUNNING),
        (RunFacts(job=JobState.COMPLETING), RunState.RUNNING),
        (RunFacts(alive=True), RunState.RUNNING),
        (RunFacts(alive=True, submitted=False), RunState.RUNNING),  # the answer was lost, the job was not
        (RunFacts(job=RUNNING, missing=True), RunState.UNKNOWN),
        (RunFacts(job=RUNNING, missing=True, alive=True), RunState.UNKNOWN),
        (RunFacts(job=RUNNING, held=True), RunState.RUNNING),
        (RunFacts(job=RUNNING, cancelled=True), RunState.RUNNING),
        # the trainer's last word comes before the scheduler's
        (RunFacts(job=RUNNING, final="diverged"), RunState.STOPPED),
        (RunFacts(job=RUNNING, final="completed"), RunState.COMPLETED),
        (RunFacts(job=JobState.FAILED, ended=True, final="completed"), RunState.COMPLETED),
        (RunFacts(ended=True, final="completed", cancelled=True), RunState.COMPLETED),
        (RunFacts(ended=True, final="completed", held=True), RunState.COMPLETED),
        # the scheduler's COMPLETED is not "training finished"
        (RunFacts(job=JobState.COMPLETED), RunState.STOPPED),
        (RunFacts(job=JobState.COMPLETED, ended=True), RunState.STOPPED),
        # over
        (RunFacts(ended=True), RunState.STOPPED),
        (RunFacts(ended=True, final="crashed"), RunState.STOPPED),
        (RunFacts(ended=True, held=True), RunState.HELD),
        (RunFacts(ended=True, cancelled=True), RunState.CANCELLED),
        (RunFacts(ended=True, cancelled=True, held=True), RunState.CANCELLED),
        (RunFacts(job=JobState.PREEMPTED, held=True), RunState.HELD),
    ],
)
def test_the_state_that_follows(facts: RunFacts, state: RunState) -> None:
    assert run_state(facts) is state


def test_nothing_but_the_trainers_word_completes_a_run_and_a_dead_job_never_runs() -> None:
    flags = itertools.product([False, True], repeat=5)
    for job, (ended, submitted, missing, alive, held) in itertools.product(JobState, list(flags)):
        facts = RunFacts(job=job, ended=ended, submitted=submitted, missing=missing, alive=alive, held=held)
        state = run_state(facts)
        assert state is not RunState.COMPLETED
        if ended or job in ENDED_STATES:
            assert state in (RunState.STOPPED, RunState.HELD), facts
        else:
            assert state in (RunState.QUEUED, RunState.RUNNING, RunState.UNKNOWN), facts
