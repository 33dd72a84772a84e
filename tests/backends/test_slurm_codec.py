"""Real answers of Slurm, read: states and times as they are, ours told from others', and no word for granted."""

from __future__ import annotations

import pytest

from clipctl.backends import slurm_codec as codec
from clipctl.backends.slurm_codec import Row
from clipctl.domain import JobReport, JobState
from tests.backends.answers import INTENT, MARK, UID, job, recorded


def queue(text: str | None = None) -> list[Row]:
    rows = codec.queue_rows(recorded("queue") if text is None else text, MARK)
    assert rows is not None
    return rows


def queued(number: int) -> JobReport:
    row = codec.own_queued(queue(), job(number), UID)
    assert row is not None
    return row.report


def accounting(text: str | None = None) -> list[Row]:
    rows = codec.accounting_rows(recorded("accounting") if text is None else text, MARK)
    assert rows is not None
    return rows


def test_a_running_job() -> None:
    report = queued(4)
    assert (report.nonce, report.scheduler_id, report.state, report.raw) == (
        "0000000000000004",
        "51",
        JobState.RUNNING,
        "RUNNING",
    )
    assert (report.nodes, report.node_count, report.restarts) == ("jwb0006", 1, 0)
    assert (report.started_at, report.ends_at, report.expected_start) == (INTENT + 1, INTENT + 601, None)


def test_a_job_that_failed_keeps_its_code_and_its_words() -> None:
    report = queued(1)
    assert (report.state, report.reason, report.exit_code) == (JobState.FAILED, "NonZeroExitCode", "85:0")


def test_a_job_that_the_site_requeued_waits_under_the_same_id() -> None:
    report = queued(3)
    assert (report.state, report.restarts, report.reason) == (JobState.PENDING, 1, "BeginTime")
    assert (report.started_at, report.expected_start) == (None, 1795515401.0)


def test_a_job_that_never_started_has_no_start() -> None:
    report = queued(5)
    assert (report.state, report.started_at, report.expected_start) == (JobState.CANCELLED, None, None)


def test_accounting_says_who_cancelled() -> None:
    row = codec.own_ended(accounting(), job(5), UID)
    assert row is not None
    assert (row.report.state, row.report.raw, row.report.cancelled_by) == (JobState.CANCELLED, "CANCELLED by 0", 0)


def test_accounting_is_believed_only_about_ends() -> None:
    """4 runs; of 3 there is only the start before the requeue. Neither is known to have ended."""
    assert codec.own_ended(accounting(), job(4), UID) is None
    assert codec.own_ended(accounting(), job(3), UID) is None


def test_of_several_starts_of_one_id_the_newest_counts() -> None:
    start = next(line for line in recorded("accounting").split("\n") if line.startswith("50"))
    later = start.replace("REQUEUED", "COMPLETED").replace(str(int(INTENT) + 1), str(int(INTENT) + 200))
    for text in (recorded("accounting") + later + "\n", recorded("accounting").replace(start, f"{later}\n{start}")):
        row = codec.own_ended(accounting(text), job(3), UID)
        assert row is not None and row.report.state is JobState.COMPLETED


@pytest.mark.parametrize(
    "stranger",
    [job(1, run_id="abcd1235"), job(1, intent=INTENT + 3600), job(0)],
    ids=["another run's name", "an id given before our intent", "another nonce"],
)
def test_a_job_is_ours_by_name_nonce_and_time(stranger: object) -> None:
    assert codec.own_queued(queue(), stranger, UID) is None  # type: ignore[arg-type]
    assert codec.own_ended(accounting(), stranger, UID) is None  # type: ignore[arg-type]


def test_another_users_job_is_not_ours() -> None:
    assert codec.own_queued(queue(), job(1), UID + 1) is None
    assert codec.own_ended(accounting(), job(1), UID + 1) is None


def test_a_clock_that_is_a_minute_behind_does_not_disown_a_job() -> None:
    assert codec.own_queued(queue(), job(1, intent=INTENT + 60), UID) is not None


def test_where_a_script_was_submitted_again_by_hand_the_live_job_counts() -> None:
    doubled = [line for line in recorded("queue").split("\n") if ":9:0000" in line and line[:2] in ("58", "60", "61")]
    alive = doubled[0].replace("COMPLETED", "RUNNING  ").replace("58 ", "99 ")
    row = codec.own_queued(queue(recorded("queue") + alive + "\n"), job(9), UID)
    assert row is not None and row.report.scheduler_id == "99"


def test_names_and_comments_forge_nothing() -> None:
    """One job is called `x\\n424242`, one has our separators' looks in its name and a newline in its comment."""
    ids = {row.report.scheduler_id for row in queue()}
    assert {"56", "57", "424242"} & ids == set()
    forged = recorded("queue").replace("424242", "424242|5|RUNNING|None|1795515276|clipctl-abcd1234|")
    assert {row.report.scheduler_id for row in queue(forged)} == ids


@pytest.mark.parametrize("number", ["12_[3-5%1]", "12_4", "12+0", "", "-1", "\N{FULLWIDTH DIGIT ONE}2"])
def test_arrays_and_parts_of_jobs_are_not_ours(number: str) -> None:
    text = recorded("queue").replace("51 ", number.ljust(3), 1)
    assert codec.own_queued(queue(text), job(4), UID) is None


def test_a_word_of_a_newer_slurm_is_kept_and_not_guessed() -> None:
    text = recorded("queue").replace("RUNNING  ", "EXPEDITED")
    row = codec.own_queued(queue(text), job(4), UID)
    assert row is not None and (row.report.state, row.report.raw) == (JobState.UNKNOWN, "EXPEDITED")
    assert row.alive


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.UNKNOWN])
def test_slurms_words_are_not_merged(state: JobState) -> None:
    text = recorded("queue").replace("RUNNING       ", state.ljust(14))
    row = codec.own_queued(queue(text), job(4), UID)
    assert row is not None and (row.report.state, row.report.raw) == (state, str(state))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "<html><body>502 Bad Gateway</body></html>\n",
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
        recorded("queue").replace(MARK, "|"),
        recorded("queue").partition("\n")[2],
        recorded("queue")[:-1],
    ],
    ids=["empty", "a line", "a web page", "an error", "another form", "no header", "cut off"],
)
def test_what_is_no_answer_is_not_an_empty_queue(text: str) -> None:
    assert codec.queue_rows(text, MARK) is None


def test_a_header_alone_is_an_empty_queue() -> None:
    assert queue(recorded("queue").partition("\n")[0] + "\n") == []
    assert accounting(recorded("accounting").partition("\n")[0] + "\n") == []


def test_a_banner_before_an_answer_is_passed_over() -> None:
    assert queue("Welcome to the cluster!\n\n" + recorded("queue")) == queue()


def ended(*ids: str, comments: bool = False) -> str:
    """Accounting of these jobs alone; without comments, as many sites' is."""
    header, *lines = recorded("accounting").rstrip("\n").split("\n")
    chosen = [line for line in lines if line.partition(MARK)[0] in ids]
    bare = chosen if comments else [line.rpartition(MARK)[0] + MARK for line in chosen]
    return "\n".join([header, *bare, ""])


def test_where_accounting_keeps_no_comments_name_time_and_folder_tell_the_only_job() -> None:
    row = codec.own_ended(accounting(ended("48")), job(1), UID)
    assert row is not None and (row.report.exit_code, row.report.nonce) == ("85:0", "0000000000000001")
    elsewhere = ended("48").replace("/p/scratch/runs/demo", "/p/scratch/runs/other")
    assert codec.own_ended(accounting(elsewhere), job(1), UID) is None
    assert codec.own_ended(accounting(ended("48")), job(1, intent=INTENT - 61), UID) is None


def test_where_that_leaves_a_choice_nothing_is_believed() -> None:
    assert codec.own_ended(accounting(ended("48", "49")), job(1), UID) is None


def test_a_job_with_another_nonce_is_not_taken_for_one_without() -> None:
    assert codec.own_ended(accounting(ended("48", comments=True)), job(2), UID) is None


def test_the_sizes_of_partitions() -> None:
    text = recorded("partitions").replace("MaxNodes=UNLIMITED", "MaxNodes=4", 1)
    assert codec.partition_sizes(text) == {"booster": 4, "urgent": 6}
    assert codec.partition_sizes("<html>\n") == {}


def test_accounting_is_asked_from_a_minute_before_the_eldest_intent() -> None:
    command = codec.sacct(UID, MARK, [job(1), job(2, intent=INTENT - 86400)])
    assert "--starttime=2026-11-23T10:13:36" in command and "--name=clipctl-abcd1234" in command
    assert codec.VARIABLES["TZ"] == "UTC"
