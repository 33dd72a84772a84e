"""The job script for Slurm, as text and as bash runs it. What Slurm itself says to it: tests/slurm."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from clipctl.directives import parse_directives
from clipctl.domain import Limits
from clipctl.layout import RunFolder
from clipctl.render import render
from clipctl.spec import Cluster, RunSpec, patched, resolve
from clipctl.spec.cluster import Srun
from clipctl.spec.patterns import DISTRIBUTION, FEATURES, LICENSES, MAIL, MEMORY, NODES, WALL_TIME, WORD, WORDS
from tests.spec.hostile import FOLDER, HOSTILE, IDENTITY, recorder, run, words

# Stand-ins for what a node has: they say nothing about Slurm, only what the script asks of it.
SRUN = """#!/bin/sh
{ printf '%s\\0' "$0" "$@"; } >"$RECORDS/srun"
env -0 >"$RECORDS/env"
"""
SCONTROL = """#!/bin/sh
case "$1 $2" in
    "show hostnames") echo "jwb0001"; echo "jwb0002" ;;
    "show node") echo "NodeName=$4 CPUTot=48 NodeAddr=10.0.0.7 NodeHostName=$4 Port=0" ;;
    "show job") echo "JobId=7 Comment=\\"it's\\" PreemptTime=None" ;;
esac
"""
NODE = {"SLURM_JOB_ID": "24001", "SLURM_JOB_NODELIST": "jwb[0001-0002]", "SLURM_JOB_NAME": "clipctl-0a1b2c3d"}
FORMS = {
    "partition": WORDS, "account": WORD, "qos": WORD, "reservation": WORDS, "constraint": FEATURES, "nodelist": NODES,
    "exclude": NODES, "mem": MEMORY, "tmp": MEMORY, "licenses": LICENSES, "mail_user": MAIL, "wckey": WORD,
    "distribution": DISTRIBUTION, "time": WALL_TIME, "gpu_type": WORD,
}  # fmt: skip
OPTIONS = st.fixed_dictionaries(
    {},
    optional={name: st.from_regex(form, fullmatch=True) for name, form in FORMS.items()}
    | {"contiguous": st.just("true"), "nice": st.integers(0, 10**6), "cpus_per_task": st.integers(1, 64)},
)


def cluster_with(**fields: Any) -> Cluster:
    return Cluster(name="big", scheduler="slurm", gpus_per_node=4).model_copy(update=fields)


def spec_with(slurm: dict[str, Any] | None = None, *, nodes: int = 2, ranks_per_node: int = 4) -> RunSpec:
    resources = {"nodes": nodes, "ranks_per_node": ranks_per_node}
    sizes = {"train.data.train_num_samples": 10**6, "train.batch_size": 8}
    return patched(resolve("demo"), {"resources": resources, "slurm": slurm or {}, **sizes})


SCRATCH = RunFolder(Path("/scratch/runs/demo"))


def script_of(spec: RunSpec, cluster: Cluster, folder: RunFolder = SCRATCH, python: str = "/python") -> str:
    return render(spec, cluster, identity=IDENTITY, run_folder=folder, python=python)


def on_a_node(bin_folder: Path) -> dict[str, str]:
    """An environment in which srun and scontrol are found."""
    bin_folder.mkdir()
    recorder(bin_folder / "srun", SRUN)
    recorder(bin_folder / "scontrol", SCONTROL)
    return NODE | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}


def test_hostile_values_arrive_as_they_are_and_nothing_of_them_runs(
    tmp_path_factory: pytest.TempPathFactory, soak: Callable[[int, int], int]
) -> None:
    """What sbatch is told is what the spec says; what srun and python are told too; no value is read as shell."""

    @settings(max_examples=soak(25, 1000))
    @given(
        FOLDER.filter(lambda text: not set(text) & set("%\\")),  # refused by the spec
        FOLDER,
        st.dictionaries(st.sampled_from(["A_1", "OMPI_MCA_btl", "no_proxy"]), HOSTILE),
        OPTIONS,
    )
    def check(root: str, interpreter: str, env: dict[str, str], options: dict[str, Any]) -> None:
        base = tmp_path_factory.mktemp("hostile")
        records, folder = base / "records", RunFolder.of(base / "x" / root, "demo")
        python = recorder(base / interpreter)
        spec, cluster = spec_with(options), cluster_with(env=env)

        script = script_of(spec, cluster, folder, str(python))
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        told = parse_directives(script)
        assert told.items() >= spec.slurm.directives().items()
        assert told["chdir"] == str(folder.path)
        assert told["output"] == f"{folder.job('f00d').logs}/script.log"

        done = run(script, folder, records, **on_a_node(base / "bin"))
        assert done.returncode == 0, done.stderr
        srun = words(records / "srun")
        assert srun[-5:] == [str(python), "-P", "-m", "trainer", str(folder.attempt(3).path)]
        assert f"--output={folder.job('f00d').logs}/rank_%t.log" in srun
        environ = dict(item.split("=", 1) for item in words(records / "env"))
        assert environ.items() >= (env | {"CLIPCTL_NONCE": "f00d"}).items()
        assert json.loads(folder.job(IDENTITY.nonce).exit.read_text())["code"] == 0
        assert not [path for path in base.rglob("canary") if path.is_file()]

    check()


def test_a_job_is_known_by_its_own_directives_and_shaped_by_the_resources() -> None:
    assert parse_directives(
        script_of(spec_with({"gpu_type": "a100", "time": "24:00:00"}, nodes=96), cluster_with())
    ) == {
        "job-name": "clipctl-0a1b2c3d",
        "comment": "clipctl:demo:3:f00d",
        "dependency": "singleton",
        "no-requeue": "",
        "signal": "USR1@600",
        "export": "NONE",
        "chdir": "/scratch/runs/demo",
        "output": "/scratch/runs/demo/jobs/f00d/logs/script.log",
        "open-mode": "append",
        "nodes": "96",
        "ntasks-per-node": "4",
        "gres": "gpu:a100:4",
        "wait-all-nodes": "1",
        "time": "24:00:00",
    }


@pytest.mark.parametrize(
    ("gpus", "slurm", "gres"),
    [(4, {}, "gpu:2"), (None, {}, None), (None, {"gpu_type": "a100"}, "gpu:a100:2")],
)
def test_gpus_are_asked_for_where_there_are_some(gpus: int | None, slurm: dict[str, str], gres: str | None) -> None:
    script = script_of(spec_with(slurm, ranks_per_node=2), cluster_with(gpus_per_node=gpus))
    assert parse_directives(script).get("gres") == gres


def test_no_warning_is_asked_for_where_it_could_only_come_too_early() -> None:
    assert "signal" not in parse_directives(script_of(spec_with({"time": "00:01:00"}), cluster_with()))


def test_directives_stand_before_every_command() -> None:
    """What stands below one is not obeyed, and sbatch does not say so."""
    lines = script_of(spec_with({"qos": "high"}), cluster_with(setup=("module purge",))).split("\n")
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({}, "jwb0001"),
        ({"master_addr_suffix": "i"}, "jwb0001i"),
        ({"master_addr": "node_address"}, "10.0.0.7"),
    ],
)
def test_ranks_meet_on_the_first_host(fields: dict[str, str], address: str, tmp_path: Path) -> None:
    folder, records = RunFolder.of(tmp_path, "demo"), tmp_path / "records"
    python = recorder(tmp_path / "python")
    script = script_of(spec_with({"cpus_per_task": 6}), cluster_with(**fields), folder, str(python))
    done = run(script, folder, records, **on_a_node(tmp_path / "bin"))

    assert done.returncode == 0, done.stderr
    environ = dict(item.split("=", 1) for item in words(records / "env"))
    assert (environ["MASTER_ADDR"], environ["MASTER_PORT"]) == (address, "20001")
    assert (environ["SRUN_CPUS_PER_TASK"], environ["PYTHONUNBUFFERED"]) == ("6", "1")


def test_jobs_that_share_a_node_do_not_share_a_port() -> None:
    (line,) = (line for line in script_of(spec_with(), cluster_with()).splitlines() if line.startswith("MASTER_PORT="))
    ports = subprocess.run(
        ["bash", "-c", f'for SLURM_JOB_ID in 1 2 3 11999 12000 99999999; do {line}; echo "$MASTER_PORT"; done'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert ports == ["20001", "20002", "20003", "31999", "20000", "23999"]


def test_without_a_host_no_rank_is_started(tmp_path: Path) -> None:
    folder, records = RunFolder.of(tmp_path, "demo"), tmp_path / "records"
    environ = on_a_node(tmp_path / "bin")
    recorder(tmp_path / "bin" / "scontrol", "#!/bin/sh\necho 'cannot contact' >&2\nexit 1\n")
    script = script_of(spec_with(), cluster_with(master_addr_suffix="i"), folder, str(recorder(tmp_path / "python")))
    done = run(script, folder, records, **environ)

    assert done.returncode == 1
    assert "scontrol does not say where rank 0 is" in done.stderr
    assert not (records / "srun").exists()
    assert json.loads(folder.job(IDENTITY.nonce).exit.read_text())["scheduler"] == ""


def test_srun_binds_as_the_profile_says_and_does_not_end_before_rank_0(tmp_path: Path) -> None:
    folder, records = RunFolder.of(tmp_path, "demo"), tmp_path / "records"
    cluster = cluster_with(srun=Srun(cpu_bind="none,v", accel_bind="gn"), limits=Limits(claim_wait=7.5))
    script = script_of(spec_with(), cluster, folder, str(recorder(tmp_path / "python")))
    assert run(script, folder, records, **on_a_node(tmp_path / "bin")).returncode == 0

    asked = set(words(records / "srun"))
    assert asked >= {"--cpu-bind=none,v", "--accel-bind=gn", "--export=ALL", "--kill-on-bad-exit=1", "--wait=0"}
    assert "--open-mode=append" in asked
    assert words(records / "0")[1:6] == ["-P", "-m", "trainer.claim", "--wait", "7.5"]


@pytest.mark.parametrize("line", ["#SBATCH -N 2", "#SBATCH --nodes 2", "#SBATCH --nodes=2 --exclusive", "#SBATCH"])
def test_a_directive_of_another_form_is_not_guessed_at(line: str) -> None:
    with pytest.raises(ValueError, match="not one long option"):
        parse_directives(f"#!/bin/bash\n{line}\n")


def test_of_two_directives_for_one_option_none_is_believed() -> None:
    with pytest.raises(ValueError, match="--nodes is given twice"):
        parse_directives("#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --nodes=3\n")


def test_below_a_command_nothing_is_a_directive() -> None:
    assert parse_directives("#!/bin/bash\n\n# why\n#SBATCH --nodes=2\necho\n#SBATCH --nodes=3\n") == {"nodes": "2"}
