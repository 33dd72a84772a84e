"""What a cluster consists of: fixed at its start and kept in its folder, so that another process finds it there."""

from __future__ import annotations

import json
import os
import pwd
import random
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

# Below the ports where jobs' ranks meet (20000 to 32000, by the job's id) and those that Linux hands out to clients
# (32768 and up), above the ones with well-known owners.
PORTS = range(10_000, 20_000)


@dataclass(frozen=True)
class Plan:
    folder: Path
    nodes: int
    gpus: int
    accounting: bool
    port: int  # the controller's, then slurmdbd's, then one a node
    settings: Mapping[str, str] = field(default_factory=dict)  # of slurm.conf; they win over ours

    @property
    def names(self) -> list[str]:
        return [f"jwb{number:04}" for number in range(1, self.nodes + 1)]

    @property
    def first_job(self) -> int:
        """Its id. Ranks of two clusters' first jobs would else meet at one port, as all nodes are this machine."""
        return self.port - PORTS.start + 1

    @property
    def user(self) -> str:
        """Slurm's daemons and jobs belong to whoever started the cluster."""
        return pwd.getpwuid(os.geteuid()).pw_name

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.folder / "munge.socket"

    @property
    def database_socket(self) -> Path:
        return self.folder / "database.socket"

    def log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"

    def write(self) -> None:
        (self.folder / "plan.json").write_text(json.dumps(asdict(self) | {"folder": str(self.folder)}))


def read_plan(folder: Path) -> Plan:
    """FileNotFoundError where no cluster is."""
    stored = json.loads((folder / "plan.json").read_text())
    return Plan(**stored | {"folder": Path(stored["folder"])})


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens at."""
    while True:
        first = random.SystemRandom().randrange(PORTS.start, PORTS.stop - count)
        if all_free(range(first, first + count)):
            return first


def all_free(ports: range) -> bool:
    with ExitStack() as held:
        for port in ports:
            try:
                listener = held.enter_context(socket.socket())
                listener.setsockopt(
                    socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
                )  # as Slurm does: TIME_WAIT is no hindrance
                listener.bind(("", port))
            except OSError:
                return False
    return True
