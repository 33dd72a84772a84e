"""A run's folder on an emulated cluster, with job scripts as rendered but for what their ranks run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipctl.domain import JobIdentity
from clipctl.render import render
from clipctl.spec import Cluster, patched, resolve
from clipctl.spec.cluster import Srun
from clipctl.spec.slurm import SbatchOptions
from tests.local.desk import TRAIN, Desk
from trainer import contract
from trainer.contract import Attempt

# A rank that writes down what it finds, and what it is told; rank 0 ends last, with the last word.
RANK = """
import json, os, signal, sys, time
from pathlib import Path
attempt, rank, told = Path(sys.argv[1]), int(os.environ["SLURM_PROCID"]), []
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, lambda number, frame: (told.append(number), print("told", number)))
seen = {"environ": dict(os.environ), "argv": sys.argv, "executable": sys.executable, "cwd": os.getcwd()}
(attempt / f"rank_{rank}.tmp").write_text(json.dumps(seen))
os.rename(attempt / f"rank_{rank}.tmp", attempt / f"rank_{rank}.ready")
while not told:
    time.sleep(0.02)
if rank == 0:
    time.sleep(SAVING)
    told = [signal.Signals(number).name for number in told]
    with open(attempt / "events.jsonl", "a") as events:
        events.write(json.dumps({"kind": "stopped", "seq": 1, "signal": told[0]}) + "\\n")
    print("saved")
    sys.exit(85)
"""


@dataclass
class SlurmDesk(Desk):
    """`slurm_environ` is what Slurm's commands need to find the cluster."""

    slurm_environ: Mapping[str, str] = field(default_factory=dict)

    def ranks_that_save_for(self, seconds: float) -> None:
        self.rank(RANK.replace("SAVING", str(seconds)))

    def profile(self, **fields: Any) -> Cluster:
        return Cluster(
            name="emulated",
            scheduler="slurm",
            gpus_per_node=4,
            master_addr="node_address",  # nothing resolves the names of its nodes
            srun=Srun(cpu_bind="none,v", accel_bind="gn"),
            env={"PYTHONPATH": str(self.modules)},
        ).model_copy(update=fields)

    def identity(self, job: str, attempt: int = 1) -> JobIdentity:
        """A run id of its own: Slurm lets one job of a name run."""
        return replace(super().identity(job, attempt), run_id=self.tag[:8])

    def script_on(
        self, job: str, *, nodes: int = 2, attempt: int = 1, slurm: SbatchOptions | None = None, **fields: Any
    ) -> Path:
        """Two ranks a node."""
        folder, identity = self.attempt(attempt), self.identity(job, attempt)
        folder.attempt.write_text(contract.dumps(Attempt(run="demo", number=attempt, ranks=2 * nodes, train=TRAIN)))
        spec = patched(resolve("demo"), {"resources": {"nodes": nodes, "ranks_per_node": 2}})
        spec = spec.model_copy(update={"slurm": slurm or SbatchOptions(time="00:10:00")})
        text = render(spec, self.profile(**fields), identity=identity, run_folder=self.folder, python=sys.executable)
        assert '-m trainer "$attempt"' in text
        script = self.issue(job, attempt).submission
        script.write_text(text.replace('-m trainer "$attempt"', '-m stand_in "$attempt"'))
        return script

    def slurm(self, *command: str | Path, **more: str) -> str:
        done = subprocess.run(
            command, env={**self.slurm_environ, **more}, capture_output=True, text=True, timeout=60, cwd=self.root
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def sbatch(self, script: Path, **more: str) -> str:
        """The job's id. `more` is in the environment of the shell that submits."""
        return self.slurm("sbatch", "--parsable", script, **more)

    def state(self, job_id: str) -> str:
        return self.slurm("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job_id}")

    def shown(self, job_id: str) -> dict[str, str]:
        """scontrol's fields, as far as they have no spaces."""
        words = self.slurm("scontrol", "show", "job", "-o", job_id).split(" ")
        return dict(word.split("=", 1) for word in words if "=" in word)

    def found(self, rank: int, attempt: int = 1) -> dict[str, Any]:
        """What a rank wrote down as it started."""
        text = (self.folder.attempt(attempt).path / f"rank_{rank}.ready").read_text()
        return dict(json.loads(text))

    def last_word(self, attempt: int = 1) -> dict[str, Any]:
        return dict(json.loads(self.folder.attempt(attempt).events.read_text()))

    def close(self) -> None:
        self.slurm("scancel", f"--name={self.identity('').job_name}")
        super().close()
