"""A person's cancel: written down first, then told to the scheduler. Final for everybody but a person who resumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipctl.domain import JobHandle, RunState
from clipctl.errors import Refused
from clipctl.ops import standby
from clipctl.ops.clock import Clock
from clipctl.store import JobRecord

if TYPE_CHECKING:
    from clipctl.backends import Backend
    from clipctl.store.writer import Store


def cancel(
    run: str, *, actor: str, store: Store, backend: Backend, clock: Clock, force: bool = False
) -> JobRecord | None:
    """The job that was told to stop, if one may live. It gets the time it needs to save; with `force` it is killed.

    NotFound; Refused: the run has completed.
    """
    record = store.run(run)
    if record.state is RunState.COMPLETED:
        raise Refused(f"run '{run}' has completed: nothing is left to cancel", hint=f"clipctl show {run}")
    job = store.cancel(run, actor=actor, basis="asked for by a person", time=clock.now())
    standby.remove(run, store=store, backend=backend, clock=clock, actor=actor, basis="the run was cancelled")
    if job is not None:  # only now: its end is what a standby waits for
        backend.cancel(JobHandle(identity=job.identity, scheduler_id=job.scheduler_id), force=force)
    return job
