"""What happens in a story, and when: the card's, or one that is drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from clipctl.domain import Form


class Blow(StrEnum):
    """How a run is struck, besides by its own arithmetic. Named as the incident that it ends in, where it ends one."""

    WALL_TIME = "timed_out"
    PREEMPTION = "preempted"
    DEAD_NODE = "node_failed"  # slurmd, slurmstepd and ranks
    DEAD_SLURMD = "slurmd"  # Slurm calls the node dead, and its ranks write on
    CONTROLLER = "controller"  # an end in order and a new start: nothing may come of it


@dataclass(frozen=True)
class Scene:
    blow: Blow
    epoch: int  # not before this epoch is in progress
    victim: int = 0  # which of the job's nodes; 0 has rank 0
    attempt: int = 1  # nor before this one trains


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Of a preset's own arithmetic, and what it is cured by."""

    preset: str
    fault: str  # of `train.faults`
    form: Form  # of the incident
    batch_size: int  # samples a GPU, in float16
    cure: tuple[str, int]  # precision, samples a GPU
    settings: tuple[str, ...] = ()


L14 = Trouble(preset="l14-laion2b", fault="overflow", form=Form.NAN, batch_size=208, cure=("fp32", 224))
H14 = Trouble(
    preset="h14-laion2b",
    fault="plateau",
    form=Form.PLATEAU,
    batch_size=96,
    cure=("amp_bf16", 96),
    settings=("train.save.keep_last=40",),  # its ten epochs last a few seconds here: nobody could look so often
)


@dataclass(frozen=True, kw_only=True)
class Plot:
    trouble: Trouble = L14
    seed: int | None = None  # None: as it was, or as it may have been
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
        origin = self.trouble.preset if self.seed is None else f"SEED={self.seed}"
        return (
            f"{origin}: {self.nodes} x {self.gpus} ranks, {self.epochs} epochs of {self.steps} steps; "
            f"{self.trouble.fault} in epoch {self.fault_epoch}, step {self.fault_step}; {blows}"
        )


CARD = Plot(
    nodes=96,
    gpus=4,
    epochs=160,
    steps=4,
    step_seconds=0.0,
    fault_epoch=75,
    fault_step=2,
    scenes=(
        Scene(Blow.PREEMPTION, 20),
        Scene(Blow.WALL_TIME, 35),  # both early: slurmctld looks every 30 s, and the run must not be over by then
        Scene(Blow.WALL_TIME, 50),
        Scene(Blow.CONTROLLER, 80),
        Scene(Blow.DEAD_NODE, 100, victim=0),
    ),
)
# The loss has to come down before it can rise: steps enough for that, and then a few epochs.
STUCK = Plot(
    trouble=H14,
    nodes=96,
    gpus=4,
    epochs=40,
    steps=8,
    step_seconds=0.2,  # what is stuck goes on until a tick has seen it
    fault_epoch=14,
    fault_step=5,
    scenes=(Scene(Blow.DEAD_SLURMD, 16, victim=0, attempt=2),),
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
