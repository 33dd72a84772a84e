"""Whom Slurm's words about nodes hold responsible for the end of a job."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from clipctl.backends import slurm_nodes as nodes
from clipctl.backends.slurm_codec import PARTITIONS
from clipctl.domain import ENDED_STATES, JobReport, JobState
from tests.backends.answers import recorded
from tests.backends.test_mangled_answers import mangled

KILLED, PROLOG = 1795537330.0, 1795537331.0  # when the second of two nodes died, and a third failed to start a job
JOB = JobReport(
    nonce="abc", scheduler_id="17", state=JobState.NODE_FAIL, raw="NODE_FAIL", nodes="jwb[0001-0006]",
    started_at=KILLED - 9, ends_at=KILLED,
)  # fmt: skip
DEAD = {"jwb0003": "DOWN+DRAIN+NOT_RESPONDING, killed", "jwb0006": "DOWN+NOT_RESPONDING, killed"}
CANCELLED = replace(JOB, state=JobState.CANCELLED, raw="CANCELLED by 0", started_at=PROLOG, ends_at=PROLOG)
LEMON = {"jwb0002": "IDLE+DRAIN, Prolog error"}


def blamed(job: JobReport, text: str | None = None) -> dict[str, str]:
    return nodes.failed_nodes(job, nodes.node_reports(recorded("nodes") if text is None else text))


def test_nodes_that_are_down_since_then_took_the_job_along() -> None:
    assert blamed(JOB) == DEAD


def test_a_reason_older_than_the_job_is_not_renewed_when_the_node_dies() -> None:
    assert blamed(replace(JOB, started_at=KILLED + 60, ends_at=KILLED + 600)) == DEAD


def test_what_happened_to_a_node_after_the_job_is_not_its_business() -> None:
    assert blamed(replace(JOB, ends_at=KILLED - nodes.LATER - 1)) == {}
    assert blamed(replace(JOB, ends_at=None)) == {}


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.FAILED])
def test_a_prolog_that_failed_kept_the_job_from_starting(state: JobState) -> None:
    """Of nodes that died it is not said: a job that they took along is NODE_FAIL."""
    assert blamed(replace(CANCELLED, state=state)) == LEMON
    assert blamed(replace(CANCELLED, state=state, started_at=PROLOG + 1, ends_at=PROLOG + 9)) == {}
    assert blamed(replace(CANCELLED, state=state, started_at=None)) == {}


@pytest.mark.parametrize("state", sorted(ENDED_STATES - {JobState.CANCELLED, JobState.FAILED, JobState.NODE_FAIL}))
def test_no_other_end_is_a_nodes_fault(state: JobState) -> None:
    assert blamed(replace(JOB, state=state)) == (DEAD if state is JobState.BOOT_FAIL else {})


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("jwb0003", ["jwb0003"]),
        ("jwb[0001-0002,0006]", ["jwb0006"]),
        ("a[1-2]-ib,jwb[0003-0004]", ["jwb0003"]),
        ("jwb00[0-1][3,4]", ["jwb0003"]),
        ("jwb[0004-0005]", []),
        ("jwb[0001-99999999999999999999]", ["jwb0003", "jwb0006"]),
        ("jwb[0001-00", []),
        ("jwb.003", []),
        ("", []),
    ],
)
def test_a_job_answers_for_its_own_nodes_only(listed: str, found: list[str]) -> None:
    assert list(blamed(replace(JOB, nodes=listed))) == found


def test_a_question_is_about_all_jobs_that_may_have_ended_by_a_node() -> None:
    jobs = [JOB, replace(CANCELLED, nodes="jwb0002"), replace(JOB, state=JobState.RUNNING), replace(JOB, nodes="")]
    assert nodes.question(nodes.asked_about(jobs)) == "show node jwb[0001-0006],jwb0002"


@pytest.mark.parametrize("word", ["Reason=killed [root@2026-11-24T16:22:10]", "Reason=killed", ""])
def test_a_reason_without_its_time_blames_nobody(word: str) -> None:
    """An older Slurm's, or one that writes it in the site's own way."""
    assert blamed(JOB, recorded("nodes").replace("Reason=killed [root@1795537330]", word)) == {}


def test_a_reason_may_hold_anything() -> None:
    text = recorded("nodes").replace("Reason=killed", "Reason=GPU [x@1] State=UP\x1b[2J", 1)
    assert blamed(JOB, text)["jwb0003"] == "DOWN+DRAIN+NOT_RESPONDING, GPU [x@1] State=UP[2J"


def test_a_prompt_may_stand_before_the_first_answer() -> None:
    text = recorded("nodes").replace("\nNodeName=jwb0003", "\nscontrol: NodeName=jwb0003")
    assert PARTITIONS in text and blamed(JOB, text) == DEAD


@given(mangled(recorded("nodes")))
def test_of_a_torn_answer_no_node_is_made_up(text: str) -> None:
    for job in (JOB, CANCELLED):
        assert blamed(job, text).keys() <= {f"jwb{number:04}" for number in range(1, 7)}
