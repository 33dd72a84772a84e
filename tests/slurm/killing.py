"""clipctl killed by SIGKILL: at a place of its own code, or by the sbatch that it has started."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.slurm import crashing
from tests.slurm.desk import PATIENCE, Said, SlurmDesk, impostor, real

CRASHING = str(Path(crashing.__file__))
K8 = "K8 connected, the request was not sent"
K9 = "K9 accepted, and nobody is left who could read the answer"
NOT_SENT = "kill -9 $caller; exit 1"
ACCEPTED = f'job=$({real("sbatch")} "$@"); kill -9 $caller; echo $job'


def run_up_to(desk: SlurmDesk, point: str, *arguments: str) -> Said:
    """It ends as ever where it does not come by that place."""
    return desk.command([sys.executable, "-P", CRASHING, point, *arguments], PYTHONPATH=str(Path(CRASHING).parents[2]))


def crash(desk: SlurmDesk, point: str, *arguments: str) -> None:
    said = run_up_to(desk, point, *arguments)
    assert said.code == -signal.SIGKILL, (said.code, said.out, said.err)


def killed_by_its_sbatch(desk: SlurmDesk, folder: Path, body: str, command: list[str]) -> None:
    """`body` is what an sbatch of the test's own does; `$caller` is clipctl."""
    caller = folder / "caller"
    path = impostor(folder, f"until [ -s {caller} ]; do sleep 0.1; done; caller=$(cat {caller})\n{body}")
    process = desk.start(*command, PATH=path)
    caller.with_suffix(".new").write_text(str(process.pid))
    caller.with_suffix(".new").rename(caller)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL, (out, err)
