"""Which rank this process is, and where it runs."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

RENDEZVOUS_VARIABLE = "CLIPCTL_RENDEZVOUS"  # a file: ranks of one machine need no port
TOLD = ("CUDA_VISIBLE_DEVICES", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "SLURM_PROCID")


@dataclass(frozen=True)
class Place:
    rank: int
    count: int
    local_rank: int


def place(environ: Mapping[str, str]) -> Place:
    """From torchrun's or our own variables, else submitit's, else Slurm's; alone where there are none.

    A lone process inside an allocation sees SLURM_NTASKS but no rank of its own: it is alone.
    """
    for rank, count, local in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID"),
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ):
        if rank in environ and count in environ:
            return Place(int(environ[rank]), int(environ[count]), int(environ.get(local, "0")))
    return Place(0, 1, 0)


def described(where: Place, environ: Mapping[str, str]) -> str:
    """`place {json}`: the first line of each rank's log, so that all ranks' can be compared."""
    facts = asdict(where) | {"host": socket.gethostname(), "python": sys.executable}
    return "place " + json.dumps(facts | {name: environ.get(name) for name in TOLD})
