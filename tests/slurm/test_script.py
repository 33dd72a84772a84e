"""The job script on a real Slurm: what it is allowed, what its ranks find, how it is stopped, what it leaves behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from typing import Any as Cluster

from clipctl.spec.slurm import SbatchOptions
from tests.local.desk import eventually
from tests.slurm.slurm_desk import SlurmDesk
from trainer.contract import ExitCode

FOLDER = """a b's "run" ü;$(touch canary)"""
CANARIES = {"WANDB_API_KEY": "canary-1", "HF_TOKEN": "canary-2", "AWS_SECRET_ACCESS_KEY": "canary-3"}


@pytest.fixture(scope="module")
def desks(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], SlurmDesk]]:
    made: list[SlurmDesk] = []

    def make() -> SlurmDesk:
        root = tmp_path_factory.mktemp("slurm") / FOLDER
        root.mkdir()
        made.append(SlurmDesk(root, slurm_environ=cluster.environ))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


@pytest.fixture(scope="module")
def warned(desks: Callable[[], SlurmDesk]) -> SlurmDesk:
    """A job that runs while the other tests do, until Slurm warns it: 20 to 50 s from now."""
    desk = desks()
    desk.ranks_that_save_for(3)
    options = SbatchOptions(time="00:02:00", save_before_end=70, cpus_per_task=6, gpu_type=None)
    desk.sbatch(desk.script_on("n1", slurm=options), **CANARIES)
    return desk


def test_every_rank_finds_what_it_needs_and_nothing_of_the_shell_that_submitted(warned: SlurmDesk) -> None:
    warned.ready(ranks=4)
    found = [warned.found(rank) for rank in range(4)]
    environs = [rank["environ"] for rank in found]
    first = environs[0]

    assert [environ["SLURM_PROCID"] for environ in environs] == ["0", "1", "2", "3"]
    assert [environ["SLURM_LOCALID"] for environ in environs] == ["0", "1", "0", "1"]
    assert len({environ["SLURMD_NODENAME"] for environ in environs}) == 2
    assert {environ["CUDA_VISIBLE_DEVICES"] for environ in environs} == {"0,1"}
    assert {environ["MASTER_ADDR"] for environ in environs} == {"127.0.0.1"}
    assert {environ["MASTER_PORT"] for environ in environs} == {str(20000 + int(first["SLURM_JOB_ID"]) % 12000)}
    assert {environ["CLIPCTL_NONCE"] for environ in environs} == {warned.nonce("n1")}
    assert {(environ["SLURM_NTASKS"], environ["SRUN_CPUS_PER_TASK"]) for environ in environs} == {("4", "6")}
    assert {rank["cwd"] for rank in found} == {str(warned.folder.path)}
    assert {rank["argv"][1] for rank in found} == {str(warned.folder.attempt(1).path)}
    assert all("/usr/bin" in environ["PATH"].split(":") for environ in environs)
    assert "canary" not in json.dumps(environs).replace("touch canary", "")
    assert f"(id {first['SLURM_JOB_ID']}) on {first['SLURMD_NODENAME']}" in warned.log("n1")


def test_slurm_understands_all_that_it_is_told(desks: Callable[[], SlurmDesk]) -> None:
    desk = desks()
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


def test_a_cancelled_job_saves_and_its_successor_waits_until_it_is_gone(desks: Callable[[], SlurmDesk]) -> None:
    desk = desks()
    desk.ranks_that_save_for(3)
    first = desk.sbatch(desk.script_on("n1"))
    desk.ready(ranks=4)
    second = desk.sbatch(desk.script_on("n2", attempt=2))
    assert desk.state(second) == "PENDING"  # singleton
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


def test_what_only_the_script_is_told_kills_no_rank_and_a_request_reaches_them(desks: Callable[[], SlurmDesk]) -> None:
    desk = desks()
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


def test_the_warning_before_wall_time_reaches_all_ranks_and_rank_0_has_the_last_word(warned: SlurmDesk) -> None:
    """The others leave at once with 0; rank 0 saves for 3 s more."""
    warned.ready(ranks=4)
    left = warned.exit("n1")

    assert left.code == ExitCode.STOPPED
    assert warned.last_word()["signal"] == "SIGUSR1"
    assert warned.log("n1", "rank_0").split() == ["told", "10", "saved"]
    assert [warned.log("n1", f"rank_{rank}").split() for rank in (1, 2, 3)] == [["told", "10"]] * 3
    assert f"Comment=clipctl:demo:1:{warned.nonce('n1')}" in left.scheduler
    assert not list(Path(warned.root).parent.rglob("canary"))
