"""The emulated cluster does what it is told, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

from tests.cluster import Cluster


def script(folder: Path, text: str) -> str:
    file = folder / "job.sh"
    file.write_text(f"#!/bin/bash\n{text}\n")
    return str(file)


def submit(cluster: Cluster, *arguments: str) -> str:
    return cluster.run("sbatch", "--parsable", *arguments).stdout.strip()


def test_a_job_sees_its_nodes_and_gpus(cluster: Cluster, tmp_path: Path) -> None:
    step = "srun --ntasks-per-node=4 bash -c 'echo $SLURM_PROCID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'"
    output = tmp_path / "out"
    submit(cluster, "-W", "-N2", "--gres=gpu:4", f"--output={output}", script(tmp_path, step))
    lines = [f"{rank} {cluster.node(rank // 4)} 0,1,2,3" for rank in range(8)]
    assert sorted(output.read_text().splitlines()) == lines


def test_accounting_answers(accounted: Cluster, tmp_path: Path) -> None:
    job = submit(accounted, "-W", f"--output={tmp_path}/out", script(tmp_path, "true"))
    assert accounted.run("sacct", "-X", "-n", "-P", "-j", job, "-o", "JobID,State").stdout == f"{job}|COMPLETED\n"
