"""The emulated cluster itself: what a test says about Slurm, Slurm must have said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster import Cluster, processes, registry
from tests.slurm.desk import eventually

REPOSITORY = Path(__file__).parents[2]
UP = """
import os, sys, time
from pathlib import Path
from tests.cluster import Cluster
Cluster.up(Path(sys.argv[1]), nodes=2, owner=os.getpid())
print("up", flush=True)
time.sleep(600)
"""


def test_its_nodes_are_idle_and_tasks_see_their_gpus(cluster: Cluster) -> None:
    assert cluster.states() == {f"jwb000{number}": "idle" for number in range(1, 7)}
    task = "echo $SLURMD_NODENAME $SLURM_LOCALID $CUDA_VISIBLE_DEVICES"
    said = cluster.run("srun", "--nodes=2", "--ntasks-per-node=4", "--gres=gpu:4", "bash", "-c", task)
    places = {(node, str(local), "0,1,2,3") for node in ("jwb0001", "jwb0002") for local in range(4)}
    assert {tuple(line.split()) for line in said.stdout.splitlines()} == places


def test_a_dead_node_takes_its_ranks_along_and_comes_back(cluster: Cluster) -> None:
    job = cluster.run("sbatch", "--parsable", "--no-requeue", "--output=/dev/null", "--wrap=sleep 300").stdout.strip()
    eventually(lambda: processes.of_node(cluster.folder, "jwb0001"))
    steps = processes.of_node(cluster.folder, "jwb0001")
    cluster.kill_node("jwb0001")
    eventually(lambda: all(processes.start_time(pid) == "" for pid in steps))
    assert "JobState=NODE_FAIL" in cluster.run("scontrol", "show", "job", job).stdout
    cluster.revive("jwb0001")
    cluster.wait_idle()


def test_a_slurmd_that_dies_alone_leaves_its_ranks_running(cluster: Cluster) -> None:
    cluster.run("sbatch", "--no-requeue", "--output=/dev/null", "--wrap=exec sleep 301")
    eventually(lambda: processes.of_node(cluster.folder, "jwb0001"))
    zombies = processes.of_node(cluster.folder, "jwb0001")
    cluster.kill_node("jwb0001", ranks=False)
    assert all(processes.start_time(pid) for pid in zombies)
    processes.end(zombies)


def test_a_frozen_controller_answers_late_and_one_without_its_state_forgets(cluster: Cluster) -> None:
    job = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 300").stdout.strip()
    cluster.freeze_controller()
    with pytest.raises(subprocess.TimeoutExpired):
        cluster.run("squeue", timeout=1.0)
    cluster.thaw()
    assert job in cluster.run("squeue", "--noheader", "--format=%i").stdout
    cluster.restart_controller(lose_state=True)
    assert cluster.run("squeue", "--noheader").stdout == ""


def test_what_a_killed_test_run_left_is_cleaned_by_the_next_one(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "left"
    folder.mkdir()
    owner = subprocess.Popen([sys.executable, "-c", UP, str(folder)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert processes.of_cluster(folder)
    assert folder in registry.clean()
    assert not processes.of_cluster(folder)
    assert not folder.exists()


def test_an_ordinary_user_has_one_too(tmp_path: Path) -> None:
    """Another user than the one who runs the tests, where that is root."""
    if os.getuid() != 0:
        return  # then every other test here is this one
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder.stat().st_mode & 0o077 == 0:
            folder.chmod(0o711)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "tests.cluster",
         "--folder", str(theirs / "c"), "up", "--nodes", "2"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120, env=os.environ | {"HOME": str(theirs)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Cluster.open(theirs / "c") as cluster:
        assert set(cluster.states().values()) == {"idle"}


def test_accounting_remembers(accounted: Cluster) -> None:
    job = accounted.run("sbatch", "--parsable", "--output=/dev/null", "--comment=why", "--wrap=exit 3").stdout.strip()
    wanted = ["FAILED|3:0|why"]
    deadline = time.monotonic() + 60
    while (said := _accounts(accounted, job)) != wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    assert said == wanted


def _accounts(cluster: Cluster, job: str) -> list[str]:
    command = ("sacct", "--noheader", "-X", "-P", f"--jobs={job}", "--format=State,ExitCode,Comment")
    return cluster.run(*command).stdout.splitlines()
