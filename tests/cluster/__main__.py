"""python -m tests.cluster: a real Slurm on this machine, until it is told to go."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .cluster import Cluster
from .daemons import ClusterError
from .owner import NOBODY, PREFIX
from .processes import of_cluster


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    result.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), f"{PREFIX}{os.geteuid()}"))
    commands = result.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up")
    up.add_argument("--nodes", type=int, default=6)
    up.add_argument("--gpus", type=int, default=4)
    up.add_argument("--accounting", action="store_true")
    for name in ("down", "status", "freeze-controller", "thaw"):
        commands.add_parser(name)
    restart = commands.add_parser("restart-controller")
    restart.add_argument("--lose-state", action="store_true")
    kill = commands.add_parser("kill-node")
    kill.add_argument("node")
    kill.add_argument("--keep-ranks", action="store_true")
    commands.add_parser("revive").add_argument("node")
    for command in commands.choices.values():
        command.add_argument("--folder", type=Path, default=argparse.SUPPRESS)
    return result


def start(asked: argparse.Namespace) -> None:
    began = time.monotonic()
    cluster = Cluster.up(
        asked.folder, nodes=asked.nodes, gpus=asked.gpus, accounting=asked.accounting, owner_pid=NOBODY
    )
    root = cluster.folder / "root"
    root.mkdir()
    cluster.profile(root)
    print(f"up in {time.monotonic() - began:.1f} s; in every shell that is to use it:\n{exports(cluster)}")


def exports(cluster: Cluster) -> str:
    """For Slurm's commands, and for clipctl to find its profile `emulated`."""
    variables = cluster.environ | {"XDG_CONFIG_HOME": str(cluster.config_home)}
    return "\n".join(f"export {name}={value}" for name, value in variables.items())


def status(cluster: Cluster) -> None:
    """Nodes, jobs, and what all of it costs."""
    processes = of_cluster(cluster.folder)
    megabytes = sum(item.resident for item in processes) / 2**20
    jobs = Counter(cluster.run("squeue", "-h", "-o", "%T").stdout.split())
    for name, counts in (("nodes", Counter(cluster.states().values())), ("jobs", jobs)):
        print(f"{name:10}{', '.join(f'{count} {state}' for state, count in counts.items()) or 'none'}")
    print(f"processes {len(processes)}, {megabytes:.0f} MB resident")
    print(exports(cluster))


def run(asked: argparse.Namespace) -> None:
    if asked.command == "up":
        return start(asked)
    cluster = Cluster.at(asked.folder)
    match asked.command:
        case "down":
            cluster.down()
        case "status":
            status(cluster)
        case "kill-node":
            cluster.kill_node(asked.node, ranks=not asked.keep_ranks)
        case "revive":
            cluster.revive(asked.node)
        case "freeze-controller":
            cluster.freeze_controller()
        case "thaw":
            cluster.thaw()
        case "restart-controller":
            cluster.restart_controller(asked.lose_state)


if __name__ == "__main__":
    try:
        run(parser().parse_args())
    except (ClusterError, subprocess.TimeoutExpired) as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {' '.join(error.cmd)}: {error.stderr.strip()}")
