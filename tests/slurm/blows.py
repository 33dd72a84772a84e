"""What befalls a job from outside: a job that is more urgent, and signals to its ranks."""

from __future__ import annotations

import signal

from tests.cluster.processes import of_node, send
from tests.slurm.desk import SlurmDesk, eventually
from tests.story.living import rank_of


def urgent(desk: SlurmDesk, nodes: int = 6) -> str:
    """The id of a job that takes nodes from others."""
    return desk.cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", "--partition=urgent", f"--nodes={nodes}", "--wrap=sleep 1"
    ).stdout.strip()


def everywhere(desk: SlurmDesk) -> str:
    """The id of somebody else's job, which has all nodes."""
    nodes = len(desk.cluster.nodes)
    job = desk.cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", "--partition=urgent", f"--nodes={nodes}", "--wrap=sleep 300"
    ).stdout.strip()
    eventually(lambda: desk.cluster.run("squeue", "-h", "-j", job, "-o", "%T").stdout.strip() == "RUNNING")
    return job


def ranks_on(desk: SlurmDesk, *nodes: str) -> list[int]:
    found = [item.pid for node in nodes or desk.cluster.nodes for item in of_node(desk.cluster.folder, node)]
    return [pid for pid in found if rank_of(pid, desk.root)]


def kill(desk: SlurmDesk, number: signal.Signals, *pids: int) -> None:
    send(number, [item for node in desk.cluster.nodes for item in of_node(desk.cluster.folder, node)
                  if item.pid in pids])  # fmt: skip
