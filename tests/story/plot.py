"""What happens in a story, and when: the card's, or one that is drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Blow(StrEnum):
    """How a run is struck, besides by its own arithmetic. Named as the incident that it ends in, where it ends one."""

    WALL_TIME = "timed_out"
    PREEMPTION = "preempted"
    DEAD_NODE = "node_failed"  # slurmd, slurmstepd and ranks
    DEAD_SLURMD = "slurmd"  # Slurm calls the node dead, and its ranks write on
    CONTROLLER = "controller"  # kill -9 and a new start: nothing may come of it


@dataclass(frozen=True)
class Scene:
    blow: Blow
    epoch: int  # not before this epoch is in progress
    victim: int = 0  # which of the job's nodes; 0 has rank 0


@dataclass(frozen=True, kw_only=True)
class Plot:
    seed: int | None  # None: the card's own history
    nodes: int
    gpus: int
    epochs: int
    steps: int  # an epoch, in float16
    step_seconds: float
    fault_epoch: int
    fault_step: int
    scenes: tuple[Scene, ...]

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus

    def __str__(self) -> str:
        blows = ", ".join(f"{scene.blow.name.lower()} from epoch {scene.epoch}" for scene in self.scenes)
        origin = "the card's" if self.seed is None else f"SEED={self.seed}"
        return (
            f"{origin}: {self.nodes} x {self.gpus} ranks, {self.epochs} epochs of {self.steps} steps; "
            f"overflow in epoch {self.fault_epoch}, step {self.fault_step}; {blows}"
        )


CARD = Plot(
    seed=None,
    nodes=96,
    gpus=4,
    epochs=160,
    steps=4,
    step_seconds=0.0,
    fault_epoch=75,
    fault_step=2,
    scenes=(
        Scene(Blow.PREEMPTION, 20),
        Scene(Blow.WALL_TIME, 35),
        Scene(Blow.CONTROLLER, 80),
        Scene(Blow.DEAD_NODE, 85, victim=0),
        Scene(Blow.WALL_TIME, 100),
    ),
)
BLOWS = (Blow.WALL_TIME, Blow.PREEMPTION, Blow.CONTROLLER)


def drawn(
    seed: int, *, nodes: int, gpus: int, epochs: int, steps: int = 4, step_seconds: float = 0.0, rollback: int = 6
) -> Plot:
    """Fault epoch, order, times and victims from the seed. The fault comes where there is something to go back to.

    Troubles begin in the first third: slurmctld looks at wall time every 30 s, and the run must not be over by then.
    """
    draw = random.Random(seed)
    blows = [*BLOWS, draw.choice((Blow.DEAD_NODE, Blow.DEAD_SLURMD))]
    draw.shuffle(blows)
    times = sorted(draw.randint(2, epochs // 3) for _ in blows)
    return Plot(
        seed=seed,
        nodes=nodes,
        gpus=gpus,
        epochs=epochs,
        steps=steps,
        step_seconds=step_seconds,
        fault_epoch=draw.randint(rollback + 2, epochs - 3),
        fault_step=draw.randint(1, steps),
        scenes=tuple(
            Scene(blow, time, draw.randrange(nodes)) for blow, time in zip(blows, times, strict=True)
        ),
    )  # fmt: skip
