"""The emulated cluster does what it is told, and Slurm answers as on a real site."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.cluster import Cluster

ROOT = Path(__file__).parents[2]
TICKING = """
while echo tick >> {file}.$SLURM_PROCID; do sleep 0.1; done
"""


def submit(cluster: Cluster, *arguments: str, step: str) -> str:
    """The id of a job that runs this bash code once a task."""
    code = f"srun bash -c {shlex.quote(step)}"
    return cluster.run("sbatch", "--parsable", "--output=/dev/null", *arguments, f"--wrap={code}").stdout.strip()


def state(cluster: Cluster, job: str) -> str:
    return cluster.run("scontrol", "-o", "show", "job", job).stdout.partition("JobState=")[2].split()[0]


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end, "never so"
        time.sleep(0.05)


def ticks(file: Path, rank: int) -> int:
    """How often a rank of TICKING has written so far."""
    log = file.with_suffix(f".{rank}")
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_job_sees_its_nodes_and_gpus(cluster: Cluster, tmp_path: Path) -> None:
    step = "echo $SLURM_PROCID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
    lines = cluster.run("srun", "-N2", "--ntasks-per-node=4", "--gres=gpu:4", "bash", "-c", step).stdout.splitlines()
    assert sorted(lines) == [f"{rank} {cluster.node(rank // 4)} 0,1,2,3" for rank in range(8)]


@pytest.mark.parametrize(
    ("partition", "outcome"),
    [
        ("booster", "PENDING"),  # requeued
        ("booster-cancel", "PREEMPTED"),
        ("booster-grace", "FAILED"),  # SIGTERM at the beginning of the grace killed it
        ("booster-cancel-grace", "FAILED"),
    ],
)
def test_an_urgent_job_takes_the_nodes_away(cluster: Cluster, tmp_path: Path, partition: str, outcome: str) -> None:
    started = tmp_path / "started"
    victim = submit(cluster, "-N6", f"--partition={partition}", step=f"touch {started}; sleep 100")
    until(started.exists)  # a signal to a job that has no process yet is lost
    urgent = submit(cluster, "-N6", "--partition=urgent", step="sleep 100")
    until(lambda: state(cluster, urgent) == "RUNNING")
    assert state(cluster, victim) == outcome


@pytest.mark.parametrize("ranks", [True, False])
def test_a_node_dies_and_comes_back(cluster: Cluster, tmp_path: Path, ranks: bool) -> None:
    """With its ranks, or leaving them to write on though Slurm has given them up."""
    file = tmp_path / "tick"
    job = submit(cluster, "-N2", "--no-requeue", step=TICKING.format(file=file))
    until(lambda: ticks(file, 0) > 0 and ticks(file, 1) > 0)
    victim = cluster.run("squeue", "-h", "-j", job, "-o", "%N").stdout  # jwb[0001-0002]
    node = cluster.run("scontrol", "show", "hostnames", victim.strip()).stdout.split()[1]
    cluster.kill_node(node, ranks=ranks)
    until(lambda: state(cluster, job) == "NODE_FAIL")
    assert cluster.states()[node].startswith("down")
    before = ticks(file, 1)
    if ranks:
        time.sleep(1)
        assert ticks(file, 1) == before
    else:
        until(lambda: ticks(file, 1) > before)
    cluster.revive(node)
    assert cluster.states()[node] == "idle"
    before = ticks(file, 1)
    time.sleep(0.5)
    assert ticks(file, 1) == before


def test_a_frozen_controller_neither_answers_nor_refuses(cluster: Cluster) -> None:
    cluster.freeze_controller()
    with pytest.raises(subprocess.TimeoutExpired):
        cluster.run("squeue", timeout=1)
    cluster.thaw()
    assert cluster.run("squeue", "-h").stdout == ""


def test_a_stopped_controller_refuses_and_knows_its_jobs_afterwards(cluster: Cluster) -> None:
    job = submit(cluster, step="sleep 100")
    cluster.stop_controller()
    assert "is DOWN" in cluster.run("scontrol", "ping", check=False).stdout  # squeue would try for 9 s
    cluster.start_controller()
    assert cluster.run("squeue", "-h", "-o", "%A").stdout.split() == [job]


def test_a_controller_without_its_state_gives_ids_again(cluster: Cluster) -> None:
    cluster.restart_controller(lose_state=True)
    first = submit(cluster, "--hold", step="true")
    cluster.restart_controller(lose_state=True)
    assert cluster.run("squeue", "-h").stdout == ""
    assert submit(cluster, "--hold", step="true") == first == str(cluster.plan.first_job)


def test_accounting_is_disabled_or_answers(cluster: Cluster, accounted: Cluster, tmp_path: Path) -> None:
    assert "accounting storage is disabled" in cluster.run("sacct", check=False).stderr
    job = submit(accounted, "--comment=from here", step="exit 3")
    query = ("sacct", "-X", "-n", "-P", "-j", job, "-o", "Account,State,ExitCode,Comment")
    until(lambda: "FAILED" in accounted.run(*query).stdout)
    assert accounted.run(*query).stdout == "clip|FAILED|3:0|from here\n"
    wrong = accounted.run("sbatch", "--account=nobodys", "--output=/dev/null", "--wrap=true", check=False)
    assert "Invalid account" in wrong.stderr


def test_slurmdbd_freezes_stops_and_starts(accounted: Cluster) -> None:
    accounted.freeze_slurmdbd()
    with pytest.raises(subprocess.TimeoutExpired):
        accounted.run("sacct", timeout=1)
    accounted.stop_slurmdbd()
    assert "Connection refused" in accounted.run("sacct", check=False).stderr
    assert submit(accounted, "--hold", step="true").isdigit()
    accounted.start_slurmdbd()
    accounted.run("sacct")


def test_a_test_leaves_nothing_to_the_next(cluster: Cluster, tmp_path: Path) -> None:
    """What the fixture does after each: here after all that can be done at once."""
    file = tmp_path / "tick"
    submit(cluster, "-N6", step="trap '' TERM" + TICKING.format(file=file))
    submit(cluster, "-N6", step="true")
    until(lambda: ticks(file, 0) > 0)
    reservation = ("nodes=ALL", "starttime=now+3600", "duration=60", "users=root", "flags=ignore_jobs")
    cluster.run("scontrol", "create", "reservation", *reservation)
    cluster.kill_node(cluster.node(0))
    cluster.kill_node(cluster.node(1), ranks=False)
    cluster.freeze_controller()
    cluster.restore()
    assert set(cluster.states().values()) == {"idle"}
    assert cluster.run("squeue", "-h").stdout == ""
    assert cluster.run("scontrol", "show", "reservation").stdout.strip() == "No reservations in the system"
    before = [ticks(file, rank) for rank in range(6)]
    time.sleep(0.5)
    assert [ticks(file, rank) for rank in range(6)] == before


def test_people_do_the_same_by_commands(cluster: Cluster) -> None:
    def command(*words: str) -> str:
        line = [sys.executable, "-m", "tests.cluster", "--folder", str(cluster.folder), *words]
        return subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout

    command("kill-node", "jwb0002")
    assert cluster.states()["jwb0002"] == "down"
    assert "5 idle, 1 down" in command("status")
    command("revive", "jwb0002")
    command("freeze-controller")
    command("thaw")
    command("restart-controller", "--lose-state")
    cluster.wait_idle()
    assert f"export SLURM_CONF={cluster.folder}/slurm.conf" in command("status")


def test_the_profile_is_yaml_and_takes_changes(cluster: Cluster, tmp_path: Path) -> None:
    file = cluster.profile(tmp_path, slurm={"partition": "booster-cancel"}, master_addr="host")
    profile = YAML(typ="safe").load(file)
    assert profile["slurm"] == {"partition": "booster-cancel", "time": "01:00:00", "cpus_per_task": 6}
    assert profile["master_addr"] == "host" and profile["root"] == str(tmp_path)
    assert file == cluster.config_home / "clipctl/clusters/emulated.yaml"
