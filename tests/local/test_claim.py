"""Who may run an attempt: real claims by real processes, many at once."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time

import pytest

from tests.local.desk import Desk, eventually
from trainer import contract
from trainer.claim import still_mine
from trainer.contract import Claim, Exit, ExitCode


def claim(desk: Desk, job: str, attempt: int = 1, *, wait: float = 0.0, **environ: str) -> subprocess.Popen[bytes]:
    folder = desk.folder.attempt(attempt).path
    return desk.python("trainer.claim", "--wait", str(wait), folder, job=job, **environ)


def outcome(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Exit code, and what it said."""
    _, said = process.communicate(timeout=60)
    return process.returncode, said.decode()


def holder(desk: Desk, attempt: int = 1) -> Claim:
    return contract.loads(Claim, desk.folder.attempt(attempt).claim.read_text())


def hold(desk: Desk, job: str, attempt: int, host: str = "another-host") -> None:
    """A claim as a job on another host has left it."""
    desk.attempt(attempt)
    desk.issue(job, attempt)
    held = Claim(nonce=desk.nonce(job), job_id="4711", restart_count=0, host=host, time=0.0)
    desk.folder.attempt(attempt).claim.write_text(contract.dumps(held))


def leave(desk: Desk, job: str) -> None:
    desk.job(job).exit.write_text(contract.dumps(Exit(code=0, time=0.0)))


def test_the_first_claim_holds_the_attempt(desk: Desk) -> None:
    desk.attempt()
    desk.issue("n1")

    assert outcome(claim(desk, "n1")) == (ExitCode.COMPLETED, "")
    held = holder(desk)
    assert (held.nonce, held.restart_count, held.host) == (desk.nonce("n1"), 0, socket.gethostname())
    assert held.job_id.isdecimal()
    assert sorted(path.name for path in desk.folder.attempt(1).path.iterdir()) == ["attempt.json", "claim"]


def test_of_twenty_jobs_at_once_one_wins_and_nineteen_are_fenced(desk: Desk, soak: object) -> None:
    for attempt in range(1, soak(2, 10)):  # type: ignore[operator]
        desk.attempt(attempt)
        jobs = [f"n{attempt}.{number}" for number in range(20)]
        for job in jobs:
            desk.issue(job, attempt)
        claims = [claim(desk, job, attempt) for job in jobs]
        answers = dict(zip(jobs, map(outcome, claims), strict=True))

        winners = [job for job, (code, _) in answers.items() if code == ExitCode.COMPLETED]
        losers = [said for code, said in answers.values() if code == ExitCode.FENCED]
        assert len(winners) == 1 and len(losers) == 19
        assert holder(desk, attempt).nonce == desk.nonce(winners[0])
        assert all(said.startswith("fenced: ") and desk.nonce(winners[0]) in said for said in losers)
        assert all(said.count("\n") == 1 for said in losers)


def test_a_claim_that_is_withdrawn_while_it_is_looked_at_stands_in_nobodys_way(desk: Desk) -> None:
    """Listed, and gone before it was read: of two attempts that came together the earlier one gave way."""
    desk.attempt(1)
    desk.folder.attempt(1).claim.symlink_to("withdrawn")
    desk.attempt(2)
    desk.issue("n2", 2)
    assert outcome(claim(desk, "n2", 2)) == (ExitCode.COMPLETED, "")
    assert holder(desk, 2).nonce == desk.nonce("n2")


# --- jobs that must not ------------------------------------------------------------------------------


def test_a_process_without_a_nonce_is_fenced(desk: Desk) -> None:
    desk.attempt()
    code, said = outcome(claim(desk, ""))

    assert code == ExitCode.FENCED and "CLIPCTL_NONCE" in said


def test_a_nonce_that_was_never_issued_is_fenced(desk: Desk) -> None:
    desk.attempt()
    code, said = outcome(claim(desk, "n1"))

    assert code == ExitCode.FENCED and "was not issued" in said


def test_a_nonce_of_another_attempt_is_fenced(desk: Desk) -> None:
    desk.attempt(1)
    desk.attempt(2)
    desk.issue("n1", 1)
    code, said = outcome(claim(desk, "n1", 2))

    assert code == ExitCode.FENCED and "issued for attempt 1" in said


def test_a_later_attempt_that_is_claimed_ends_all_earlier_ones(desk: Desk) -> None:
    desk.attempt(1)
    desk.issue("n1")
    hold(desk, "n2", 2)
    code, said = outcome(claim(desk, "n1"))

    assert code == ExitCode.FENCED and "attempt 2 of this run is claimed" in said
    assert not desk.folder.attempt(1).claim.exists()


def test_a_later_attempt_that_is_only_planned_ends_nothing(desk: Desk) -> None:
    desk.attempt(1)
    desk.attempt(2)
    desk.issue("n1")

    assert outcome(claim(desk, "n1"))[0] == ExitCode.COMPLETED


@pytest.mark.parametrize("file", ["attempt.json", "job.json"])
def test_files_of_a_newer_version_are_not_acted_on(file: str, desk: Desk) -> None:
    path = {"attempt.json": desk.attempt().attempt, "job.json": desk.issue("n1").job}[file]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": contract.SCHEMA + 1, "run": {"new": "shape"}}))
    code, said = outcome(claim(desk, "n1"))

    assert code == ExitCode.FENCED and "newer clipctl" in said


def test_an_attempt_that_cannot_be_read_is_refused_in_one_line(desk: Desk) -> None:
    desk.attempt().attempt.write_text('{"run": "de')
    desk.issue("n1")
    code, said = outcome(claim(desk, "n1"))

    assert code == ExitCode.REFUSED and said.startswith("error: ") and said.count("\n") == 1


# --- the same job again ------------------------------------------------------------------------------


def test_a_restart_that_the_site_forced_may_claim_again(desk: Desk) -> None:
    desk.attempt()
    desk.issue("n1")
    outcome(claim(desk, "n1", SLURM_JOB_ID="7"))
    leave(desk, "n1")

    assert outcome(claim(desk, "n1", SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1")) == (0, "")
    assert holder(desk).restart_count == 1
    assert not desk.job("n1").exit.exists()  # of the start before: the job is not over


def test_a_restart_that_was_overtaken_is_fenced(desk: Desk) -> None:
    desk.attempt()
    desk.issue("n1")
    outcome(claim(desk, "n1", SLURM_JOB_ID="7", SLURM_RESTART_COUNT="2"))
    code, said = outcome(claim(desk, "n1", SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1"))

    assert code == ExitCode.FENCED and "restart 2" in said
    assert holder(desk).restart_count == 2


def test_a_submission_that_was_accepted_twice_runs_once(desk: Desk) -> None:
    """One nonce, two ids: sbatch reported a failure, and the script was accepted all the same."""
    desk.attempt()
    desk.issue("n1")

    assert outcome(claim(desk, "n1", SLURM_JOB_ID="7"))[0] == ExitCode.COMPLETED
    assert outcome(claim(desk, "n1", SLURM_JOB_ID="8"))[0] == ExitCode.FENCED


# --- the attempt before ------------------------------------------------------------------------------


def test_a_claim_waits_for_the_end_of_the_attempt_before(desk: Desk) -> None:
    hold(desk, "n1", 1)
    desk.attempt(2)
    desk.issue("n2", 2)
    waiting = claim(desk, "n2", 2, wait=60)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1.5)
    # Not claimed while it waits: the one before may still publish the checkpoint that it is writing.
    assert still_mine(desk.folder.attempt(1).path, desk.nonce("n1"))
    leave(desk, "n1")

    assert outcome(waiting) == (ExitCode.COMPLETED, "")
    assert not still_mine(desk.folder.attempt(1).path, desk.nonce("n1"))


def test_a_claim_waits_for_every_attempt_before(desk: Desk) -> None:
    hold(desk, "n1", 1)
    hold(desk, "n2", 2)
    leave(desk, "n2")
    desk.attempt(3)
    desk.issue("n3", 3)

    assert "attempt 1 has not ended" in outcome(claim(desk, "n3", 3))[1]
    leave(desk, "n1")
    assert outcome(claim(desk, "n3", 3))[0] == ExitCode.COMPLETED


def test_past_its_patience_a_claim_is_fenced_and_holds_nothing(desk: Desk) -> None:
    hold(desk, "n1", 1)
    desk.attempt(2)
    desk.issue("n2", 2)
    code, said = outcome(claim(desk, "n2", 2, wait=0.5))

    assert code == ExitCode.FENCED and "attempt 1 has not ended" in said and "another-host" in said
    assert not desk.folder.attempt(2).claim.exists()


def test_on_one_host_the_last_process_of_a_killed_job_is_its_end(desk: Desk) -> None:
    hold(desk, "n1", 1, host=socket.gethostname())
    desk.attempt(2)
    desk.issue("n2", 2)
    rank = desk.start("sleep", "600", job="n1")
    eventually(lambda: desk.of("n1"))
    assert outcome(claim(desk, "n2", 2, wait=0.5))[0] == ExitCode.FENCED
    rank.kill()

    assert outcome(claim(desk, "n2", 2, wait=60))[0] == ExitCode.COMPLETED


def test_under_slurm_a_quiet_host_says_nothing_about_the_other_hosts(desk: Desk) -> None:
    hold(desk, "n1", 1, host=socket.gethostname())
    desk.attempt(2)
    desk.issue("n2", 2)

    assert outcome(claim(desk, "n2", 2, wait=0.5, SLURM_JOB_ID="7"))[0] == ExitCode.FENCED


def test_two_attempts_that_come_together_never_run_together(desk: Desk, soak: object) -> None:
    for first in range(1, 2 * soak(4, 50), 2):  # type: ignore[operator]
        started = [running(desk, number) for number in (first, first + 1)]
        for number, process in enumerate(started, first):
            mark = desk.folder.attempt(number).path / "runs"
            while process.poll() is None and not mark.exists():
                time.sleep(0.02)
        alive = [process.poll() is None for process in started]
        assert alive.count(True) == 1
        assert [desk.folder.attempt(number).claim.exists() for number in (first, first + 1)] == alive
        for process in started:
            process.kill()
            process.wait()


def running(desk: Desk, number: int) -> subprocess.Popen[bytes]:
    """A job that claims its attempt and, where it may, stays."""
    script = '"$0" -P -m trainer.claim --wait 3 "$1" && touch "$1/runs" && exec sleep 600'
    folder = desk.attempt(number).path
    desk.issue(f"n{number}", number)
    return desk.start("bash", "-c", script, sys.executable, folder, job=f"n{number}")


# --- before a checkpoint is published ----------------------------------------------------------------


def test_an_attempt_is_still_mine_until_it_is_not(desk: Desk) -> None:
    folder = desk.attempt(1).path
    assert not still_mine(folder, desk.nonce("n1"))
    hold(desk, "n1", 1)
    assert still_mine(folder, desk.nonce("n1"))
    assert not still_mine(folder, desk.nonce("n0"))
    hold(desk, "n2", 2)
    assert not still_mine(folder, desk.nonce("n1"))


def test_ranks_of_an_earlier_start_of_a_restarted_job_hold_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost node's ranks can live on beside the restart: same job, same nonce."""
    folder = desk.attempt().path
    desk.issue("n1")
    outcome(claim(desk, "n1", SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1"))

    assert not still_mine(folder, desk.nonce("n1"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert still_mine(folder, desk.nonce("n1"))


# --- cut short ---------------------------------------------------------------------------------------


def test_a_full_disk_does_not_leave_half_a_claim_that_nobody_can_take(desk: Desk) -> None:
    desk.attempt()
    desk.issue("n1")
    desk.issue("n2")
    limited = 'ulimit -f 0; exec "$0" -P -m trainer.claim "$1"'  # no file may grow: what ENOSPC does
    full = desk.start("bash", "-c", limited, sys.executable, desk.folder.attempt(1).path, job="n1")
    code, said = outcome(full)

    assert code == ExitCode.CRASHED and said.startswith("error: ") and said.count("\n") == 1
    assert [path.name for path in desk.folder.attempt(1).path.iterdir()] == ["attempt.json"]
    assert outcome(claim(desk, "n2"))[0] == ExitCode.COMPLETED


def test_kill_9_at_any_moment_leaves_a_whole_claim_or_none(desk: Desk, soak: object) -> None:
    for number in range(soak(6, 200)):  # type: ignore[operator]
        desk.attempt(1)
        desk.issue(job := f"n{number}")
        cut = claim(desk, job)
        with contextlib.suppress(subprocess.TimeoutExpired):
            cut.wait(0.05 * (number % 10))
        cut.kill()
        cut.wait()
        desk.issue(last := f"last{number}")
        claimed = desk.folder.attempt(1).claim.exists()

        assert outcome(claim(desk, last))[0] == (ExitCode.FENCED if claimed else ExitCode.COMPLETED)
        assert holder(desk).nonce == desk.nonce(job if claimed else last)
        desk.folder.attempt(1).claim.unlink()
