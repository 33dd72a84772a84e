"""A person's hold on a run: nothing is started for it until it is released. What runs goes on."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from clipctl.errors import Refused, Unavailable
from clipctl.ops import standby
from clipctl.ops.clock import Clock

if TYPE_CHECKING:
    from clipctl.backends import Backend
    from clipctl.store.writer import Store


def hold(run: str, *, reason: str, actor: str, store: Store, backend: Backend, clock: Clock) -> None:
    """What stands by in the queue is removed. Where the scheduler cannot be told, its claim refuses to start it."""
    store.run(run)
    store.hold(run, actor=actor, basis=reason, time=clock.now())
    with suppress(Unavailable):
        standby.remove(run, store=store, backend=backend, clock=clock, actor=actor, basis="the run is held")


def release(run: str, *, actor: str, store: Store, clock: Clock) -> None:
    """Refused: the run is not held."""
    if store.run(run).hold_reason is None:
        raise Refused(f"run '{run}' is not held", hint=f"clipctl status {run}")
    store.release(run, actor=actor, basis="released by a person", time=clock.now())
