"""The card's job in small: `python -m tests.rehearse` (or `make rehearse`).

A real Slurm of 98 nodes comes up on this machine, clipctl launches the preset on 96 of them, four ranks each, with the
rehearsal trainee, and follows it to its end. Then what the 384 ranks say of their places is compared with Slurm's, and
the script that `clipctl render` shows with the one that was submitted and the one that Slurm has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Rehearsal:
    """One run of `l14-laion2b` on a cluster that is up; `sets` are changed against the preset, last ones win."""

    cluster: Cluster
    folder: Path
    sets: tuple[str, ...] = ()

    @property
    def run(self) -> Path:
        return self.folder / "root" / "runs" / "l14-laion2b"

    def environ(self) -> Mapping[str, str]:
        ours = {"XDG_CONFIG_HOME": str(self.cluster.config_home), "CLIPCTL_HOME": str(self.folder / "home")}
        return os.environ | self.cluster.environ | ours

    def command(self, name: str, *options: str) -> list[str]:
        sets = [item for text in (*SHORT, *self.sets) for item in ("--set", text)]
        return [sys.executable, "-m", "clipctl", name, "l14-laion2b", "--cluster", "emulated", *options, *sets]

    def launch(self) -> None:
        """And follows it to its end."""
        root = self.folder / "root"
        root.mkdir()
        self.cluster.profile(root)
        subprocess.run(self.command("launch", "-y", "--follow"), env=self.environ(), check=True)

    def differences(self) -> list[str]:
        """From what should be, of all ranks' places and all copies of the script; empty: all agree."""
        return place_differences(places(self.run)) + script_differences(self.rendered(), self.run, self.cluster)

    def rendered(self) -> str:
        return subprocess.check_output(self.command("render"), env=self.environ(), text=True)


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


def place_differences(found: list[dict[str, object]]) -> list[str]:
    """Of all ranks' words from what they should be."""
    lines = [] if len(found) == NODES * RANKS else [f"{len(found)} ranks spoke, not {NODES * RANKS}"]
    for rank, place in enumerate(found):
        wanted = expected(rank)
        lines += [f"rank {rank}: {key} is {place.get(key)!r}, not {wanted[key]!r}" for key in wanted
                  if place.get(key) != wanted[key]]  # fmt: skip
    ports = {place["MASTER_PORT"] for place in found}
    return lines + ([f"{len(ports)} meeting places: {ports}"] if len(ports) != 1 else [])


def script_differences(rendered: str, run: Path, cluster: Cluster) -> list[str]:
    """Of what `clipctl render` shows, the file that sbatch was given and Slurm's own copy, byte for byte.

    Only run id and nonce come with a launch: `render` shows zeros for them, each in its own place. Slurm keeps its copy
    as long as it remembers the job (MinJobAge).
    """
    intent, answer = (json.loads(line) for line in (run / "decisions.jsonl").read_text().splitlines()[:2])
    shown = rendered.replace("clipctl-00000000", f"clipctl-{intent['run_id']}").replace("0" * 16, intent["nonce"])
    submitted = (run / "jobs" / intent["nonce"] / "submission.sh").read_text()
    copy = cluster.folder / "copy.sh"
    cluster.run("scontrol", "write", "batch_script", answer["basis"], str(copy))
    others = {"what clipctl render shows": shown, "Slurm's copy": copy.read_text()}
    return [f"{name} is not the script that was submitted" for name, text in others.items() if text != submitted]


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        with Cluster.up(Path(name, "cluster"), nodes=NODES + 2) as cluster:
            print(f"{NODES + 2} nodes are idle after {time.monotonic() - began:.0f} s", flush=True)
            rehearsal = Rehearsal(cluster, Path(name), tuple(sys.argv[1:]))
            rehearsal.launch()
            wrong = rehearsal.differences()
        print(f"{NODES * RANKS} ranks, {time.monotonic() - began:.0f} s in all; their places and their script: "
              f"{'all as Slurm was told' if not wrong else f'{len(wrong)} differ'}")  # fmt: skip
        sys.exit("\n".join(wrong[:10]) or 0)


if __name__ == "__main__":
    main()
