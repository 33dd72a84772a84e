"""A site that changes what was asked for is found out, and one that only writes it otherwise is not accused."""

from __future__ import annotations

import pytest

from clipctl.backends.comparison import differences
from clipctl.directives import parse_directives

SCRIPT = """#!/bin/bash
# not a directive
#SBATCH --job-name=clipctl-abcd1234
#SBATCH --comment=clipctl:demo:1:00
#SBATCH --no-requeue
#SBATCH --chdir='/p/scratch/a b'
#SBATCH --nodes=96
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --time=24:00:00
#SBATCH --partition=booster,develbooster
#SBATCH --account=CLIP
#SBATCH --exclude=jwb0001
true
"""
SHOWN = (
    "JobId=7 JobName=clipctl-abcd1234 UserId=ada(5) Account=clip QOS=normal JobState=PENDING Requeue=0 Restarts=0"
    " TimeLimit=1-00:00:00 Partition=booster,develbooster NumNodes=96-96 NumCPUs=384 NumTasks=384 CPUs/Task=1"
    " TRES=cpu=384,node=96 Command=/p/scratch/a b/submission.sh WorkDir=/p/scratch/a b Comment=clipctl:demo:1:00 "
    " StdErr=/dev/null Power= TresPerNode=gres:gpu:4 \n"
)


def found(change: str = "", to: str = "") -> tuple[str, ...]:
    assert change in SHOWN
    return differences(parse_directives(SCRIPT), SHOWN.replace(change, to))


def test_slurms_own_spelling_is_no_difference() -> None:
    assert found() == ()
    assert found("TresPerNode=gres:gpu:4", "TresPerNode=gres/gpu:4") == ()
    assert found("Partition=booster,develbooster NumNodes=96-96", "Partition=booster NumNodes=96") == ()


@pytest.mark.parametrize(
    ("change", "to", "line"),
    [
        ("NumNodes=96-96", "NumNodes=1", "--nodes=96, but the job has NumNodes=1"),
        ("1-00:00:00", "12:00:00", "--time=24:00:00, but the job has TimeLimit=12:00:00"),
        ("Requeue=0", "Requeue=1", "--no-requeue, but Slurm may start the job again by itself (Requeue=1)"),
        ("gres:gpu:4", "gres:gpu:1", "--gres=gpu:4, but the job has TresPerNode=gres:gpu:1"),
        ("=booster,develbooster", "=batch", "--partition=booster,develbooster, but the job has Partition=batch"),
        ("Account=clip", "Account=other", "--account=CLIP, but the job has Account=other"),
        ("Comment=clipctl:demo:1:00", "Comment=x", "--comment=clipctl:demo:1:00, but the job has Comment=x"),
        ("NumTasks=384", "NumTasks=96", "384 ranks, but the job has NumTasks=96"),
        ("WorkDir=/p/scratch/a b", "WorkDir=/", "--chdir=/p/scratch/a b, but the job has WorkDir=/"),
    ],
)
def test_what_slurm_made_of_it_is_said(change: str, to: str, line: str) -> None:
    assert found(change, to) == (line,)
