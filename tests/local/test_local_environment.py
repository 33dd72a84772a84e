"""What a local job sees of its surroundings, and what it lets others see."""

from __future__ import annotations

import sys

import pytest

from tests.local.desk import SUBMITTING, Desk

SHOW_ENVIRONMENT = "import os; print(*sorted(os.environ.items()), sep='\\n')"


@pytest.mark.parametrize("devices", ["0,3", None])
def test_the_gpus_of_a_job_are_its_users_not_submitits(
    devices: str | None, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if devices:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    desk.rank(SHOW_ENVIRONMENT)
    desk.submit("n1", desk.script("n1", ranks=1))
    desk.exit("n1")

    seen = [line for line in desk.log("n1", "rank_0").splitlines() if "CUDA_VISIBLE_DEVICES" in line]
    assert seen == ([str(("CUDA_VISIBLE_DEVICES", devices))] if devices else [])


def test_a_rank_sees_no_allocation_that_is_not_its_own(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_PROCID", "0")
    desk.rank(SHOW_ENVIRONMENT)
    desk.submit("n1", desk.script("n1", ranks=1))
    desk.exit("n1")

    seen = desk.log("n1", "rank_0")
    assert "('RANK', '0')" in seen
    assert "SLURM_" not in seen and "SUBMITIT_" not in seen


def test_what_a_job_writes_is_its_users_alone(desk: Desk) -> None:
    desk.rank("print('hello')")
    desk.submit("n1", desk.script("n1"))
    assert desk.exit("n1").code == 0
    job = desk.job("n1")
    for path in (job.path / "submitit", job.exit, job.logs / "script.log", job.logs / "rank_0.log"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_submitit_is_not_imported_by_whoever_submits(desk: Desk) -> None:
    desk.rank("")
    code = SUBMITTING + "assert not any(name.startswith(('submitit', 'pydantic')) for name in sys.modules)"
    cli = desk.start(sys.executable, "-c", code, desk.script("n1"), desk.nonce("n1"))

    assert cli.wait(60) == 0
    desk.exit("n1")
