"""A cluster's beginning and end: nothing outlives its owner, whoever that is and however it ended."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, ClusterError, processes
from tests.cluster.processes import all_processes, end, of_cluster, of_node, send

ROOT = Path(__file__).parents[2]
OWNER = """
import sys, time
from pathlib import Path
from tests.cluster import Cluster
cluster = Cluster.up(Path(sys.argv[1]), nodes=2)
cluster.run("sbatch", "-N2", "-o", "/dev/null", "--wrap", "trap '' TERM; srun bash -c 'trap \\"\\" TERM; sleep 1000'")
while len(cluster.run("squeue", "-h", "--steps").stdout.split("\\n")) < 3:
    time.sleep(0.05)
print("up", flush=True)
time.sleep(1000)
"""
# Python itself may lie where an ordinary user cannot read: all is imported before root steps down.
ORDINARY = """
import os, pwd, sys
from tests.cluster.__main__ import parser, run
if os.geteuid() == 0:
    user = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
run(parser().parse_args())
"""


def mentions(folder: Path) -> list[str]:
    """Command lines of living processes that have the folder in them, in their environment or among their files."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            texts = [(process / name).read_bytes() for name in ("cmdline", "environ")]
            texts += [os.fsencode(os.readlink(link)) for link in (process / "fd").iterdir()]
        except OSError:  # ended meanwhile
            continue
        if process.name != str(os.getpid()) and any(os.fsencode(folder) in text for text in texts):
            found.append(texts[0].replace(b"\0", b" ").decode())
    return found


@pytest.fixture
def folder(installed: None) -> Iterator[Path]:
    """Short, as sockets must be, and open to an ordinary user."""
    made = Path(tempfile.mkdtemp(prefix="life-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_a_cluster_ends_with_its_context(folder: Path) -> None:
    with Cluster.up(folder, nodes=2) as cluster:
        assert len([line for line in mentions(folder) if line.startswith("slurmd -N")]) == 2
        with pytest.raises(ClusterError, match="is a cluster up there"):
            Cluster.up(folder)
        assert cluster.states() == {"jwb0001": "idle", "jwb0002": "idle"}
    assert mentions(folder) == [] and not folder.exists()


@pytest.fixture
def owner(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a cluster, and in it ranks that do not heed SIGTERM."""
    command = [sys.executable, "-c", OWNER, str(folder / "owned")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None and owner.stdout.readline() == "up\n"
            yield owner
        finally:
            owner.kill()


def test_the_next_up_ends_what_a_killed_owner_left(folder: Path, owner: subprocess.Popen[str]) -> None:
    """Ranks included that a slurmstepd left when it was killed; but a cluster whose owner lives is left alone."""
    cluster = Cluster.at(folder / "owned")
    with Cluster.up(folder / "other", nodes=1):
        assert len(cluster.states()) == 2
    owner.kill()
    owner.wait()
    parents = [item for item in of_cluster(cluster.folder) if item.program.startswith("slurmstepd")]
    send(signal.SIGKILL, parents)
    left = mentions(cluster.folder)
    assert any("sleep 1000" in line for line in left) and any("slurmctld" in line for line in left) and parents
    with Cluster.up(folder / "next", nodes=1):
        assert mentions(cluster.folder) == [] and not cluster.folder.exists()
    assert mentions(folder) == []


def test_an_ordinary_user_has_a_cluster_as_well(folder: Path) -> None:
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    os.chown(folder, user.pw_uid, user.pw_gid)

    def cluster(*words: str) -> str:
        line = [sys.executable, "-c", ORDINARY, "--folder", str(folder), *words]
        return subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout

    cluster("up", "--nodes", "2", "--accounting")
    try:
        assert "2 idle" in cluster("status")
        job = ["srun", "-N2", "--gres=gpu:4", "bash", "-c", "echo $(id -un) $CUDA_VISIBLE_DEVICES"]
        environment = os.environ | Cluster.at(folder).environ
        output = subprocess.check_output(job, env=environment, user=user.pw_uid, group=user.pw_gid, cwd="/", text=True)
        assert output.splitlines() == [f"{user.pw_name} 0,1,2,3"] * 2
    finally:
        cluster("down")
    assert mentions(folder) == []


def test_a_start_that_fails_says_why_and_leaves_nothing(folder: Path) -> None:
    with pytest.raises(ClusterError, match=r"slurmctld ended(.|\n)*select/nonsense"):
        Cluster.up(folder, settings={"SelectType": "select/nonsense"})
    assert mentions(folder) == [] and not folder.exists()


def test_what_dies_with_a_node_has_no_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parents die first, whichever process has the lower number; an orphaned script is not passed over for that."""
    monkeypatch.setattr(processes, "all_processes", lambda: all_processes()[::-1])
    script = tmp_path / "script"
    script.write_text("trap 'touch told' EXIT\nsleep 1000 &\necho begun\nwait $!\n")
    there = {"SLURM_CONF": str(tmp_path / "slurm.conf"), "SLURMD_NODENAME": "jwb0001"}
    stepd = ("bash", "-c", "bash script & wait")
    with subprocess.Popen(stepd, cwd=tmp_path, env=os.environ | there, stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout and parent.stdout.readline() == b"begun\n"
            found = of_node(tmp_path, "jwb0001")
            assert [item.parent for item in found[1:]] == [item.pid for item in found[:-1]] and len(found) == 3
            parent.kill()
            parent.wait()
            send(signal.SIGKILL, found)
            while of_node(tmp_path, "jwb0001"):
                time.sleep(0.01)
            assert not (tmp_path / "told").exists()
        finally:
            end(lambda: of_node(tmp_path, "jwb0001"))


@pytest.mark.parametrize(("ci", "code"), [({}, 0), ({"CI": "true"}, 1)])
def test_without_slurm_tests_are_left_out_but_not_under_ci(ci: dict[str, str], code: int) -> None:
    test, of_a_job = Path(__file__).with_name("test_cluster.py"), "test_a_job_sees_its_nodes_and_gpus"
    plain = {name: value for name, value in os.environ.items() if name != "CI"} | {"PATH": "/nowhere"} | ci
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{test}::{of_a_job}"]
    run = subprocess.run(command, cwd=ROOT, env=plain, stdout=subprocess.PIPE, text=True)
    assert "not installed: sbatch, srun, scontrol, " in run.stdout and "apt install slurm-wlm" in run.stdout
    assert run.returncode == code, run.stdout
