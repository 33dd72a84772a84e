"""What a claim under Slurm makes of squeue's answers, good and bad. What a real one answers: tests/slurm."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from trainer.contract import Claim
from trainer.predecessor import SlurmJobs

EARLIER = Claim(nonce="n1", job_id="7", restart_count=0, host="jwb0001", time=0.0)
MINE = {"SLURM_JOB_ID": "8", "SLURM_JOB_NAME": "clipctl-r1"}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, and a place where squeue is found."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "jobs" / "n1").mkdir(parents=True)
    return tmp_path


def squeue(node: Path, source: str) -> None:
    (node / "squeue").write_text(f"#!/bin/sh\n{source}\n")
    (node / "squeue").chmod(0o755)


def says(node: Path, *rows: str) -> None:
    squeue(node, "printf '%s\\n' " + " ".join(f"'{row}'" for row in rows))


@pytest.mark.parametrize(
    ("rows", "alive"),
    [
        (("8|RUNNING",), False),
        (("7|RUNNING", "8|RUNNING"), True),
        (("7|COMPLETING", "8|RUNNING"), True),
        (("8|RUNNING", "7|SUSPENDED"), True),
        (("8|RUNNING", "7|A_WORD_OF_A_NEWER_SLURM"), True),
        (("8|RUNNING", "7|NODE_FAIL"), False),
        (("8|RUNNING", "7|CANCELLED"), False),
        (("8|RUNNING", "7|PENDING"), False),  # requeued by the site: nothing runs, and it will find itself overtaken
        (("8|RUNNING", "77|RUNNING"), False),
    ],
)
def test_the_state_of_the_job_decides(rows: tuple[str, ...], alive: bool, node: Path) -> None:
    says(node, *rows)
    assert bool(SlurmJobs(node, MINE).alive([EARLIER])) is alive


def test_an_exit_json_is_not_the_end_of_ranks_on_other_nodes(node: Path) -> None:
    (node / "jobs/n1/exit.json").touch()
    says(node, "8|RUNNING", "7|COMPLETING")
    jobs = SlurmJobs(node, MINE, settle=0.0)

    assert jobs.alive([EARLIER]) == [EARLIER]
    assert jobs.words(EARLIER) == "its job n1 (id 7) on jwb0001 is COMPLETING"


def test_an_id_that_was_given_to_this_very_job_says_nothing_about_the_one_before(node: Path) -> None:
    """A controller that lost its state counts from an older number again."""
    says(node, "7|RUNNING")
    assert SlurmJobs(node, MINE | {"SLURM_JOB_ID": "7"}).alive([EARLIER]) == []


FAILURES = [
    ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "Unable to contact"),
    ("exit 3", "it left with code 3"),
    ("true", "leaves out job 8, which asks"),
    ("echo '7|COMPLETED'", "leaves out job 8, which asks"),
    ("echo 'Welcome to this cluster'", "leaves out job 8, which asks"),
]


@pytest.mark.parametrize(("source", "words"), FAILURES)
def test_no_answer_is_not_the_answer_no(source: str, words: str, node: Path) -> None:
    squeue(node, source)
    jobs = SlurmJobs(node, MINE)

    assert jobs.alive([EARLIER]) == [EARLIER]
    assert words in jobs.words(EARLIER)


def test_a_node_without_squeue_cannot_tell(node: Path) -> None:
    jobs = SlurmJobs(node, MINE)
    assert jobs.alive([EARLIER]) == [EARLIER]
    assert "squeue does not say" in jobs.words(EARLIER)


def test_where_squeue_never_answers_an_exit_json_is_believed_in_the_end(node: Path) -> None:
    jobs = SlurmJobs(node, MINE, settle=0.3)
    assert jobs.alive([EARLIER])
    time.sleep(0.4)
    assert jobs.alive([EARLIER])  # it left none
    (node / "jobs/n1/exit.json").touch()
    assert jobs.alive([EARLIER])  # ranks may still be on their way out
    time.sleep(0.4)
    assert jobs.alive([EARLIER]) == []


def test_where_squeue_has_answered_only_squeue_is_believed(node: Path) -> None:
    (node / "jobs/n1/exit.json").touch()
    says(node, "8|RUNNING", "7|COMPLETING")
    jobs = SlurmJobs(node, MINE, settle=0.0)
    assert jobs.alive([EARLIER])
    squeue(node, "exit 1")

    assert jobs.alive([EARLIER])
    says(node, "8|RUNNING")
    assert jobs.alive([EARLIER]) == []


def test_all_that_went_before_costs_one_question(node: Path) -> None:
    squeue(node, f"echo asked >>{node}/questions; echo '8|RUNNING'")
    jobs = SlurmJobs(node, MINE)
    many = [Claim(nonce=f"n{id}", job_id=str(id), restart_count=0, host="x", time=0.0) for id in range(100, 140)]

    assert jobs.alive(many) == [] and jobs.alive(many) == []
    assert (node / "questions").read_text() == "asked\n"


def test_a_job_that_waits_again_may_start_again(node: Path) -> None:
    says(node, "8|RUNNING", "7|PENDING")
    jobs = SlurmJobs(node, MINE)
    assert jobs.alive([EARLIER]) == []
    says(node, "8|RUNNING", "7|RUNNING")
    assert jobs.alive([EARLIER]) == [EARLIER]


def test_a_user_s_own_filters_hide_no_job(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "elsewhere")
    squeue(node, "echo '8|RUNNING'; [ -n \"$SQUEUE_PARTITION\" ] || echo '7|RUNNING'")
    assert SlurmJobs(node, MINE).alive([EARLIER]) == [EARLIER]
