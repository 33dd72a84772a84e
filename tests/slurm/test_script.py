"""The job script on a real Slurm: what it is allowed, what its ranks find, how it is stopped, what it leaves behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipctl.spec.slurm import SbatchOptions
from tests.cluster import Cluster
from tests.local.desk import eventually
from tests.slurm.slurm_desk import SlurmDesk
from trainer.contract import ExitCode

FOLDER = """a b's "run" ü;$(touch canary)"""
SECRETS = {"WANDB_API_KEY": "secret-1", "HF_TOKEN": "secret-2", "AWS_SECRET_ACCESS_KEY": "secret-3"}


@pytest.fixture
def desk(cluster: Cluster, tmp_path: Path) -> Iterator[SlurmDesk]:
    root = tmp_path / FOLDER
    root.mkdir()
    made = SlurmDesk(root, slurm_environ=cluster.environ)
    yield made
    made.close()
    assert not list(tmp_path.rglob("canary"))


def test_from_the_first_line_to_the_warning_before_wall_time(desk: SlurmDesk) -> None:
    """The other ranks leave at once with 0; rank 0 saves for 3 s more, and its word is the job's."""
    desk.ranks_that_save_for(3)
    # Slurm looks each half minute who has less than `save_before_end` and half a minute left: 15 to 45 s from now.
    options = SbatchOptions(time="00:02:00", save_before_end=75, cpus_per_task=6)
    desk.sbatch(desk.script_on("n1", slurm=options), **SECRETS)
    desk.ready(ranks=4)
    _check_what_ranks_found(desk)
    left = desk.exit("n1", seconds=150)

    assert left.code == ExitCode.STOPPED
    assert desk.last_word()["signal"] == "SIGUSR1"
    assert desk.log("n1", "rank_0").split() == ["told", "10", "saved"]
    assert [desk.log("n1", f"rank_{rank}").split() for rank in (1, 2, 3)] == [["told", "10"]] * 3
    assert f"Comment=clipctl:demo:1:{desk.nonce('n1')}" in left.scheduler
    assert not [file for file in desk.root.rglob("*") if file.is_file() and b"secret-" in file.read_bytes()]


def _check_what_ranks_found(desk: SlurmDesk) -> None:
    found = [desk.found(rank) for rank in range(4)]
    environs = [rank["environ"] for rank in found]
    first = environs[0]

    assert [environ["SLURM_PROCID"] for environ in environs] == ["0", "1", "2", "3"]
    assert [environ["SLURM_LOCALID"] for environ in environs] == ["0", "1", "0", "1"]
    assert len({environ["SLURMD_NODENAME"] for environ in environs}) == 2
    assert {environ["CUDA_VISIBLE_DEVICES"] for environ in environs} == {"0,1"}
    assert {environ["MASTER_ADDR"] for environ in environs} == {"127.0.0.1"}
    assert {environ["MASTER_PORT"] for environ in environs} == {str(20000 + int(first["SLURM_JOB_ID"]) % 12000)}
    assert {environ["CLIPCTL_NONCE"] for environ in environs} == {desk.nonce("n1")}
    assert {(environ["SLURM_NTASKS"], environ["SRUN_CPUS_PER_TASK"]) for environ in environs} == {("4", "6")}
    assert {rank["cwd"] for rank in found} == {str(desk.folder.path)}
    assert {rank["argv"][1] for rank in found} == {str(desk.folder.attempt(1).path)}
    assert all("/usr/bin" in environ["PATH"].split(":") for environ in environs)
    assert "secret-" not in json.dumps(environs)
    assert f"(id {first['SLURM_JOB_ID']}) on {first['SLURMD_NODENAME']}" in desk.log("n1")


def test_slurm_understands_all_that_it_is_told(desk: SlurmDesk) -> None:
    options = SbatchOptions(
        account="ours", time="1-02:00:00", begin="now+1hours", nice=7, contiguous=True, switches="2@00:10:00",
        exclusive=True, cpus_per_task=6, hint="nomultithread", distribution="block:cyclic", mem="100G",
        propagate="NONE", mail_user="me@site.org", mail_type=("END", "FAIL"),
    )  # fmt: skip
    script = desk.script_on("n1", slurm=options)
    desk.slurm("sbatch", "--test-only", script)
    job_id = desk.sbatch(script)
    shown = desk.shown(job_id)
    desk.slurm("scancel", job_id)

    assert shown.items() >= {
        "JobName": f"clipctl-{desk.tag[:8]}", "Comment": f"clipctl:demo:1:{desk.nonce('n1')}",
        "Requeue": "0", "Account": "ours", "Nice": "7", "TimeLimit": "1-02:00:00", "NumNodes": "2-2",
        "CPUs/Task": "6", "MinMemoryNode": "100G", "Contiguous": "1",
        "MailUser": "me@site.org", "TresPerNode": "gres:gpu:2",
    }.items()  # fmt: skip
    text = desk.slurm("scontrol", "show", "job", "-o", job_id)
    assert f" WorkDir={desk.folder.path} " in text
    assert f" StdOut={desk.job('n1').logs}/script.log " in text


def test_a_cancelled_job_saves_and_its_successor_waits_until_it_is_gone(desk: SlurmDesk) -> None:
    desk.ranks_that_save_for(5)  # half of KillWait
    first = desk.sbatch(desk.script_on("n1"))
    desk.ready(ranks=4)
    second = desk.sbatch(desk.script_on("n2", attempt=2))
    eventually(lambda: desk.shown(second)["Reason"] == "Dependency")
    desk.slurm("scancel", first)
    eventually((desk.job("n2").logs / "script.log").exists)
    eventually(lambda: "attempt 1 has not ended" in desk.log("n2"))

    assert f"(id {first})" in desk.log("n2") and "is COMPLETING" in desk.log("n2")
    desk.ready(ranks=4, attempt=2)
    assert desk.last_word()["signal"] == "SIGTERM"
    assert desk.exit("n1").code == ExitCode.STOPPED
    assert "JobState=COMPLETING" in desk.exit("n1").scheduler
    assert desk.folder.attempt(1).events.stat().st_mtime < desk.folder.attempt(2).claim.stat().st_mtime
    desk.slurm("scancel", second)
    assert desk.exit("n2").code == ExitCode.STOPPED


def test_what_only_the_script_is_told_kills_no_rank_and_a_request_reaches_them(desk: SlurmDesk) -> None:
    desk.ranks_that_save_for(0.2)
    job_id = desk.sbatch(desk.script_on("n1"))
    desk.ready(ranks=4)
    desk.slurm("scancel", "--batch", "--signal=TERM", job_id)
    time.sleep(1)
    assert desk.state(job_id) == "RUNNING" and "told" not in desk.log("n1", "rank_0")
    desk.slurm("scancel", "--batch", "--signal=USR1", job_id)

    assert desk.exit("n1").code == ExitCode.STOPPED
    assert desk.last_word()["signal"] == "SIGUSR1"
    assert [desk.log("n1", f"rank_{rank}").split() for rank in (1, 2, 3)] == [["told", "10"]] * 3
