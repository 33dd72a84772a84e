"""The card's job in small: `python -m tests.rehearse` (or `make rehearse`).

A real Slurm of 98 nodes comes up on this machine, clipctl launches the preset on 96 of them, four ranks each, with the
rehearsal trainee, and follows it to its end. Then what the 384 ranks say of their places is compared with Slurm's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster import Cluster

NODES, RANKS = 96, 4
SHORT = (
    "train.engine=rehearsal",
    "train.data.train_num_samples=319488",  # 4 steps of 384 x 208
    "train.data.workers=0",
    "train.optim.warmup=8",
    "train.log_every_n_steps=4",
)


def rehearse(cluster: Cluster, folder: Path, *sets: str) -> Path:
    """Launches and follows `l14-laion2b`; the run's folder."""
    root = folder / "root"
    root.mkdir()
    cluster.profile(root)
    environ = os.environ | cluster.environ | {
        "XDG_CONFIG_HOME": str(cluster.config_home), "CLIPCTL_HOME": str(folder / "home"),
    }  # fmt: skip
    options = [item for text in (*SHORT, *sets) for item in ("--set", text)]
    command = ["launch", "l14-laion2b", "--cluster", "emulated", "-y", "--follow", *options]
    subprocess.run([sys.executable, "-m", "clipctl", *command], env=environ, check=True)
    return root / "runs" / "l14-laion2b"


def places(run: Path) -> list[dict[str, object]]:
    """What each rank said of where it is, by rank."""
    logs = run.glob("jobs/*/logs/rank_*.log")
    found = [json.loads(line.removeprefix("place ")) for log in logs for line in first_line(log)]
    return sorted(found, key=lambda place: int(str(place["rank"])))


def first_line(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith("place ")][:1]


def expected(rank: int) -> dict[str, object]:
    """Of rank N on a machine whose nodes have four GPUs and whose profile says OMP_NUM_THREADS=1."""
    return {
        "rank": rank,
        "count": NODES * RANKS,
        "local_rank": rank % RANKS,
        "python": sys.executable,
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "SLURM_PROCID": str(rank),
    }


def differences(run: Path) -> list[str]:
    """Of all ranks' words from what they should be; empty: all agree."""
    found = places(run)
    lines = [] if len(found) == NODES * RANKS else [f"{len(found)} ranks spoke, not {NODES * RANKS}"]
    for rank, place in enumerate(found):
        wanted = expected(rank)
        lines += [f"rank {rank}: {key} is {place.get(key)!r}, not {wanted[key]!r}" for key in wanted
                  if place.get(key) != wanted[key]]  # fmt: skip
    ports = {place["MASTER_PORT"] for place in found}
    return lines + ([f"{len(ports)} meeting places: {ports}"] if len(ports) != 1 else [])


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        folder = Path(name)
        with Cluster.up(folder / "cluster", nodes=NODES + 2) as cluster:
            print(f"{NODES + 2} nodes are idle after {time.monotonic() - began:.0f} s", flush=True)
            run = rehearse(cluster, folder, *sys.argv[1:])
        wrong = differences(run)
        print(f"{NODES * RANKS} ranks, {time.monotonic() - began:.0f} s in all; their places: "
              f"{'all as Slurm was told' if not wrong else f'{len(wrong)} differ'}")  # fmt: skip
        sys.exit("\n".join(wrong[:10]) or 0)


if __name__ == "__main__":
    main()
