"""A person's hold on a run: nothing is started for it until it is released. What runs goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipctl.errors import Refused
from clipctl.ops.clock import Clock

if TYPE_CHECKING:
    from clipctl.store.writer import Store


def hold(run: str, *, reason: str, actor: str, store: Store, clock: Clock) -> None:
    store.run(run)
    store.hold(run, actor=actor, basis=reason, time=clock.now())


def release(run: str, *, actor: str, store: Store, clock: Clock) -> None:
    """Refused: the run is not held."""
    if store.run(run).hold_reason is None:
        raise Refused(f"run '{run}' is not held", hint=f"clipctl status {run}")
    store.release(run, actor=actor, basis="released by a person", time=clock.now())
