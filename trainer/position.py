"""Where a run stands. Everything that a resume needs besides weights and optimizer follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainer.contract import Stream
from trainer.schedule import Geometry


@dataclass(frozen=True)
class Position:
    geometry: Geometry
    epochs_done: int = 0
    step_in_epoch: int = 0  # steps done in the epoch in progress
    samples_seen: int = 0  # of all attempts in the line: the one axis on which they compare
    origin: int = (
        0  # step_in_epoch with which this epoch's data stream started: 0, but after a resume in another geometry
    )

    @property
    def epoch(self) -> int:
        """In progress, from 1."""
        return self.epochs_done + 1

    @property
    def step(self) -> int:
        """Steps done, counted as if the whole run had had this geometry: open_clip's step, and the schedule's."""
        return self.epochs_done * self.geometry.steps_per_epoch + self.step_in_epoch

    def after_step(self) -> Position:
        return replace(
            self,
            step_in_epoch=self.step_in_epoch + 1,
            samples_seen=self.samples_seen + self.geometry.global_batch,
        )

    @property
    def at_border(self) -> bool:
        return self.step_in_epoch >= self.geometry.steps_per_epoch

    def after_epoch(self) -> Position:
        return replace(self, epochs_done=self.epochs_done + 1, step_in_epoch=0, origin=0)

    @property
    def stream(self) -> Stream:
        geometry = self.geometry
        return Stream(
            batch_size=geometry.batch_size, ranks=geometry.ranks, workers=geometry.workers, origin=self.origin
        )
