"""`python -m tests.cluster up --nodes 98`: an emulated cluster to try things on, until `down`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.cluster import Cluster, Missing, registry


def main(arguments: list[str]) -> None:
    options = parser().parse_args(arguments)
    try:
        if options.command == "up":
            up(options)
        else:
            do(options, Cluster.open(chosen(options.folder)))
    except Missing as error:
        sys.exit(str(error))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    made.add_argument("--folder", type=Path, help="the cluster's; else the newest one that stands")
    commands = made.add_subparsers(dest="command", required=True)
    up_ = commands.add_parser("up", help="bring one up, and print what to export")
    up_.add_argument("--nodes", type=int, default=6)
    up_.add_argument("--gpus", type=int, default=4)
    up_.add_argument("--accounting", action="store_true")
    commands.add_parser("down")
    commands.add_parser("status")
    kill = commands.add_parser("kill-node")
    kill.add_argument("node")
    kill.add_argument("--keep-ranks", action="store_true", help="slurmd alone dies: ranks go on unheard")
    commands.add_parser("revive").add_argument("node")
    commands.add_parser("freeze-controller")
    commands.add_parser("thaw")
    restart = commands.add_parser("restart-controller")
    restart.add_argument("--lose-state", action="store_true")
    return made


def up(options: argparse.Namespace) -> None:
    folder = options.folder or Path(tempfile.mkdtemp(prefix="clipctl-cluster-"))
    cluster = Cluster.up(folder, nodes=options.nodes, gpus=options.gpus, accounting=options.accounting)
    (folder / "root").mkdir(exist_ok=True)
    cluster.profile(folder / "root")
    for name, value in cluster.environ.items():
        print(f"export {name}={value}")


def do(options: argparse.Namespace, cluster: Cluster) -> None:
    match options.command:
        case "down":
            cluster.down()
        case "status":
            print(cluster.folder)
            print(cluster.run("sinfo").stdout + cluster.run("squeue").stdout, end="")
        case "kill-node":
            cluster.kill_node(options.node, ranks=not options.keep_ranks)
        case "revive":
            cluster.revive(options.node)
        case "freeze-controller":
            cluster.freeze_controller()
        case "thaw":
            cluster.thaw()
        case "restart-controller":
            cluster.restart_controller(lose_state=options.lose_state)


def chosen(folder: Path | None) -> Path:
    standing = [folder] if folder else registry.standing()
    if not standing:
        sys.exit("no cluster stands: python -m tests.cluster up")
    return standing[0]


if __name__ == "__main__":
    main(sys.argv[1:])
