"""What sbatch 22.05.8 printed and left with, and what may be concluded from it."""

from __future__ import annotations

import pytest

from clipctl.backends.sbatch import understood
from clipctl.backends.transport import Completed
from clipctl.domain import Accepted, Rejected, Unknown

FAILED = "sbatch: error: Batch job submission failed: "
LIMITS = f"{FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n"


@pytest.mark.parametrize(
    "out",
    ["4711\n", "4711;juwels\n", "Welcome to TACC\n--> job 12 verified\n4711\n\n", "4711\nYour balance: 12 core-h\n"],
    ids=["an id", "with its cluster", "after a banner", "before one"],
)
def test_an_id_on_a_line_of_its_own_is_a_job(out: str) -> None:
    err = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
    assert understood(Completed(code=0, out=out, err=err)) == Accepted(scheduler_id="4711")


@pytest.mark.parametrize(
    "out", ["", "Submitted batch job 4711\n", "12\n4711\n", "-5\n", "4711 juwels\n", "\N{FULLWIDTH DIGIT ONE}\n"]
)
def test_no_id_or_several_are_no_answer(out: str) -> None:
    assert isinstance(understood(Completed(code=0, out=out)), Unknown)


@pytest.mark.parametrize(
    ("code", "err"),
    [
        (1, f"sbatch: error: invalid partition specified: nosuch\n{FAILED}Invalid partition name specified\n"),
        (1, f"{FAILED}Invalid account or account/partition combination specified\n"),
        (1, f"{FAILED}Invalid qos specification\n"),
        (1, f"{FAILED}Requested reservation is invalid\n"),
        (1, f"{FAILED}Requested node configuration is not available\n"),
        (1, f"sbatch: error: QOSMaxNodePerJobLimit\n{LIMITS}"),
        (1, "sbatch: error: Invalid generic resource (gres) specification\n"),
        (255, "sbatch: error: Invalid --time specification\n"),
        (255, "sbatch: error: Invalid directive found in batch script: b\n"),
        (255, "sbatch: unrecognized option '--nosuch'\nTry \"sbatch --help\" for more information\n"),
        (1, "sbatch: error: Unable to open file /nosuch.sh\n"),
        (1, "sbatch: fatal: submission.sh: line 6: Unmatched `'` in [ run/runs/demo']\n"),
        (1, "sbatch: fatal: Could not establish a configuration source\n"),
        (127, "timeout: failed to run command 'sbatch': No such file or directory\n"),
    ],
)
def test_a_known_refusal_means_that_there_is_no_job(code: int, err: str) -> None:
    answer = understood(Completed(code=code, err=err))
    assert isinstance(answer, Rejected) and not answer.transient


@pytest.mark.parametrize(
    "err",
    [
        f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{LIMITS}",
        f"sbatch: error: AssocMaxSubmitJobLimit\n{LIMITS}",
        f"{FAILED}Requested partition configuration not available now\n",
        f"{FAILED}Unable to create job record, try again\n",
    ],
)
def test_a_refusal_for_now_says_so(err: str) -> None:
    answer = understood(Completed(code=1, err=err))
    assert isinstance(answer, Rejected) and answer.transient


def test_a_refusal_names_the_limit() -> None:
    answer = understood(Completed(code=1, err=f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{LIMITS}"))
    assert isinstance(answer, Rejected) and answer.reason.endswith("; QOSMaxSubmitJobPerUserLimit")


@pytest.mark.parametrize(
    ("code", "err"),
    [
        (1, f"{FAILED}Socket timed out on send/recv operation\n"),
        (1, f"{FAILED}Unable to contact slurm controller (connect failure)\n"),
        (1, f"sbatch: error: Munge encode failed: Failed to access socket\n{FAILED}Protocol authentication error\n"),
        (1, f"{FAILED}Zero Bytes were transmitted or received\n"),
        (1, f"{FAILED}Unspecified error\n"),
        (1, f"sbatch: error: Invalid qos specification, or so a plugin says\n{FAILED}Unexpected message received\n"),
        (1, "Segmentation fault\n"),
        (1, ""),
        (124, ""),
        (137, f"{FAILED}Invalid qos specification"),
        (None, ""),
    ],
)
def test_any_other_failure_may_have_been_a_success(code: int | None, err: str) -> None:
    if code == 137:  # killed while it said so
        err = err[:-4]
    assert isinstance(understood(Completed(code=code, err=err, problem="no answer" if code is None else "")), Unknown)
