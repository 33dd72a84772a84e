"""An evaluation's script: one process, no claim, and nothing by which Slurm or clipctl takes it for the run's job."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from clipctl.directives import parse_directives
from clipctl.domain import EvaluationIdentity, JobIdentity
from clipctl.layout import RunFolder
from clipctl.render import render, render_evaluation
from clipctl.spec import load_cluster, resolve
from tests.spec.hostile import recorder, words
from tests.spec.test_render_slurm import SCRATCH, cluster_with, on_a_node, spec_with

IDENTITY = EvaluationIdentity(run="demo", run_id="0a1b2c3d", attempt=3, nonce="f00d", submitted_at=1.0)
OF_THE_RUN = JobIdentity(run="demo", run_id="0a1b2c3d", attempt=3, nonce="f00d", submitted_at=1.0)
SLURM = {"account": "proj", "time": "24:00:00", "exclude": "jwb0007"}


def test_slurm_is_asked_for_one_gpu_under_a_name_of_its_own() -> None:
    spec, cluster = spec_with(SLURM, nodes=96), cluster_with()
    told = parse_directives(render_evaluation(spec, cluster, identity=IDENTITY, run_folder=SCRATCH, python="/python"))
    assert told["job-name"] == "clipctl-0a1b2c3d.eval"
    assert told["comment"] == "clipctl-eval:demo:3:f00d"
    assert (told["nodes"], told["ntasks-per-node"], told["gres"]) == ("1", "1", "gpu:1")
    assert told.items() >= spec.slurm.directives().items()
    assert told["output"] == "/scratch/runs/demo/evals/f00d/logs/script.log"

    own = parse_directives(render(spec, cluster, identity=OF_THE_RUN, run_folder=SCRATCH, python="/python"))
    assert own["job-name"] == "clipctl-0a1b2c3d"
    assert own.keys() - told.keys() == {"dependency", "signal"}  # waits for no other job, and saves nothing at its end


@pytest.mark.parametrize("scheduler", ["local", "slurm"])
@pytest.mark.parametrize("code", [0, 1, 88])
def test_it_runs_the_benchmark_alone_and_leaves_its_code(scheduler: str, code: int, tmp_path: Path) -> None:
    folder = RunFolder.of(tmp_path / "a b'c", "demo")
    job = folder.evaluation("f00d")
    (records := tmp_path / "records").mkdir()
    job.logs.mkdir(parents=True)
    python = recorder(tmp_path / "python")
    python.write_text(f"{python.read_text()}exit {code}\n")
    spec, cluster = (
        (resolve("demo"), load_cluster("local")) if scheduler == "local" else (spec_with(SLURM), cluster_with())
    )
    job.submission.write_text(
        render_evaluation(spec, cluster, identity=IDENTITY, run_folder=folder, python=str(python))
    )
    environ = on_a_node(tmp_path / "bin") | {"RECORDS": str(records)}
    assert subprocess.run(["bash", job.submission], env=environ, capture_output=True).returncode == code
    assert words(records / "0") == [str(python), "-P", "-m", "trainer.benchmark", str(job.path)]
    assert not (records / "1").exists() and not (records / "srun").exists()
    assert (records / "cwd").read_text() == f"{folder.path}\n"
    assert json.loads(job.exit.read_text())["code"] == code
