"""Reads every byte of a run's checkpoints, and remembers what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipctl.domain import CheckpointState
from clipctl.layout import RunFolder
from clipctl.ops.clock import Clock
from trainer.verify import damage

if TYPE_CHECKING:
    from clipctl.store.writer import Store


def verify(run: str, *, store: Store, clock: Clock) -> tuple[str, ...]:
    """What is damaged, one line each. The run was observed right before, so that pruned files are not looked for."""
    folder = RunFolder(store.run(run).folder)
    problems = []
    for item in store.history(run).checkpoints:
        if item.state is CheckpointState.SUPERSEDED:
            continue
        problem = damage(folder.resolve(item.path), item.manifest)
        state = CheckpointState.DAMAGED if problem else CheckpointState.VERIFIED
        store.checked(run, item.path, state, time=clock.now())
        if problem:
            problems.append(f"{item.path}: {problem}")
    return tuple(problems)
