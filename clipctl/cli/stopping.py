"""cancel, hold, release, save-now: what people decide about a run. None of them ever guesses which one is meant."""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.cli.app import RunName, actor, app, looked_at, opened, site_of
from clipctl.cli.words import say


@app.command()
def cancel(
    run: RunName,
    force: Annotated[bool, typer.Option("--force", help="Kill it; it does not get the time to save.")] = False,
) -> None:
    """Stop a run for good. Its job saves and ends, and nothing starts it again but a person's resume."""
    from clipctl.ops import cancel as operation
    from clipctl.ops.clock import SystemClock

    with opened() as store:
        backend = looked_at(store, run)
        job = operation.cancel(run, actor=actor(), store=store, backend=backend, clock=SystemClock(), force=force)
    if job is None:
        say(f"{run} is cancelled; no job of it was alive")
    elif force:
        say(f"{run} is cancelled; its job was killed")
    else:
        say(f"{run} is cancelled; its job was told to save and end: clipctl status {run}")


@app.command()
def hold(
    run: RunName,
    reason: Annotated[str, typer.Option("--reason", help="Kept, and shown by status.")] = "held by a person",
) -> None:
    """Start nothing for a run until it is released. A job that runs goes on."""
    from clipctl.ops import hold as operation
    from clipctl.ops.clock import SystemClock

    with opened() as store:
        backend, _ = site_of(store, run)
        operation.hold(run, reason=reason, actor=actor(), store=store, backend=backend, clock=SystemClock())
    say(f"{run} is held: clipctl release {run}")


@app.command()
def release(run: RunName) -> None:
    """End a hold. Nothing is started by it."""
    from clipctl.ops import hold as operation
    from clipctl.ops.clock import SystemClock

    with opened() as store:
        operation.release(run, actor=actor(), store=store, clock=SystemClock())
    say(f"{run} is released: clipctl status {run}")


@app.command("save-now")
def save_now(run: RunName) -> None:
    """Have a checkpoint written at the next step. The run goes on training."""
    from clipctl.ops import save_now as operation
    from clipctl.ops.clock import SystemClock

    with opened() as store:
        looked_at(store, run)
        number = operation.save_now(run, actor=actor(), store=store, clock=SystemClock())
    say(f"{run} saves at its next step, and goes on (request {number}): clipctl checkpoints {run}")
