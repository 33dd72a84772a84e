"""The card's history, told by a watchdog: `python -m tests.story` (or `make story`, `make story SEED=7`).

A real Slurm comes up on this machine. clipctl launches the preset with the rehearsal trainee and a real float16
overflow, and from there on only `clipctl watchdog run` acts, while wall time, an urgent job, a dead node and a dead
controller befall the run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from tests.cluster import Cluster
from tests.slurm.desk import SlurmDesk
from tests.story.plot import CARD, Plot, drawn
from tests.story.story import PRESET, Story
from tests.story.watch import watching

SPARE = 2  # nodes, so that a run goes on without the one that dies
PATIENCE = 600.0  # seconds
# A hundred slurmstepds on few cores take their time to end their tasks; Slurm would drain their nodes after 60 s.
PATIENT = {"UnkillableStepTimeout": "600"}


def asked() -> Plot:
    parser = argparse.ArgumentParser(prog="python -m tests.story", description=__doc__)
    parser.add_argument("--seed", type=int, help="draw fault epoch, victims and times")
    parser.add_argument("--nodes", type=int, default=CARD.nodes)
    parser.add_argument("--gpus", type=int, default=CARD.gpus)
    parser.add_argument("--epochs", type=int, default=CARD.epochs)
    parser.add_argument("--steps", type=int, default=CARD.steps, help="an epoch")
    parser.add_argument("--step-seconds", type=float, default=CARD.step_seconds)
    options = parser.parse_args()
    size = {name: value for name, value in vars(options).items() if name != "seed"}
    size["step_seconds"] = options.step_seconds
    if options.seed is not None:
        return drawn(options.seed, **size)
    if size != {name: getattr(CARD, name) for name in size}:
        parser.error("the card's history has the card's size; another one needs a --seed")
    return CARD


def main() -> None:
    plot, began = asked(), time.monotonic()
    print(plot, flush=True)
    with tempfile.TemporaryDirectory(prefix="story-") as name:
        folder = Path(name)
        with Cluster.up(folder / "cluster", nodes=plot.nodes + SPARE, gpus=plot.gpus, settings=PATIENT) as cluster:
            desk = SlurmDesk(cluster, folder / "home", folder / "root")
            desk.root.mkdir()
            cluster.profile(desk.root)
            os.environ["CLIPCTL_HOME"] = str(desk.home)
            with watching(desk) as watch:
                try:
                    Story(watch, plot, PATIENCE).tell()
                except BaseException:
                    print(cluster.said("slurmctld"), flush=True)
                    raise
                finally:
                    print("\n".join(watch.said))
                print(desk.clipctl("history", PRESET).out)
                print(desk.clipctl("show", PRESET).out.partition("\nspec as launched")[0])
                print(f"{watch.living.most} ranks at most, {watch.living.looks} looks at them: one job at any time")
    print(f"{plot}\nas it should be, in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
