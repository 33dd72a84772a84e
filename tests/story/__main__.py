"""The card's history and H/14's, told by a watchdog: `python -m tests.story` (or `make story`, `make story SEED=7`).

A real Slurm comes up on this machine. clipctl launches the preset with the rehearsal trainee and a real float16
overflow, and from there on only `clipctl watchdog run` acts, while wall time, an urgent job, a dead node and a dead
controller befall the run. Then the H/14's, whose loss is stuck until it trains in bfloat16, and on whose way ranks
write on that Slurm has lost. With a seed one that is drawn is told instead.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import Cluster
from tests.slurm.desk import SlurmDesk
from tests.story.plot import CARD, STUCK, Plot, drawn
from tests.story.story import Story
from tests.story.watch import Watch, watching

SPARE = 2  # nodes, so that a run goes on without the one that dies
PATIENCE = 600.0  # seconds
# A hundred slurmstepds on few cores take their time to end their tasks; Slurm would drain their nodes after 60 s.
PATIENT = {"UnkillableStepTimeout": "600"}


def asked() -> Sequence[Plot]:
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
        return [drawn(options.seed, **size)]
    if size != {name: getattr(CARD, name) for name in size}:
        parser.error("the card's history has the card's size; another one needs a --seed")
    return [CARD, STUCK]


def main() -> None:
    plots, began = asked(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="story-") as name:
        folder, nodes = Path(name), plots[0].nodes + SPARE
        with Cluster.up(folder / "cluster", nodes=nodes, gpus=plots[0].gpus, settings=PATIENT) as cluster:
            for plot in plots:
                cluster.restore()  # nodes died in the story before
                tell(plot, seated(cluster, folder / plot.trouble.preset))
    print(f"\nas it should be, in {time.monotonic() - began:.0f} s")


def seated(cluster: Cluster, folder: Path) -> SlurmDesk:
    desk = SlurmDesk(cluster, folder / "home", folder / "root")
    desk.root.mkdir(parents=True)
    cluster.profile(desk.root)
    os.environ["CLIPCTL_HOME"] = str(desk.home)
    return desk


def tell(plot: Plot, desk: SlurmDesk) -> None:
    print(f"\n{plot}", flush=True)
    began, preset = time.monotonic(), plot.trouble.preset
    with watching(desk) as watch:
        play(plot, watch)
        print(desk.clipctl("history", preset).out)
        print(desk.clipctl("show", preset).out.partition("\nspec as launched")[0])
        print(f"{watch.living.most} ranks at most, {watch.living.looks} looks at them: one job at any time")
    print(f"{plot}\nas it should be, in {time.monotonic() - began:.0f} s", flush=True)


def play(plot: Plot, watch: Watch) -> None:
    try:
        Story(watch, plot, PATIENCE).tell()
    except BaseException:
        print(watch.desk.cluster.said("slurmctld"), flush=True)
        raise
    finally:
        print("\n".join(watch.said))


if __name__ == "__main__":
    main()
