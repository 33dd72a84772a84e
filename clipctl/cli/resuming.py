"""resume: shows how a run would go on, and what stands against it, before it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipctl.cli.app import DryRun, Follow, Sets, Yes, actor, app, complete_run, confirmed, looked_at, opened
from clipctl.cli.starting import rehearsal, submitted
from clipctl.cli.words import clean, count, note, pairs, plural, rate, say

if TYPE_CHECKING:
    from clipctl.ops.resume import ResumePlan, Wish


@app.command()
def resume(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", autocompletion=complete_run, help="Else the only run that can be resumed."),
    ] = None,
    epoch: Annotated[int | None, typer.Option("--epoch", min=1, help="Restart *with* this epoch.")] = None,
    step: Annotated[int | None, typer.Option("--step", min=1, help="Restart from step_N.pt.")] = None,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="Restart from this file.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="amp_fp16, amp_bf16 or fp32.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="A rank; wins over the precision's.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Another data order.")] = None,
    lr: Annotated[str | None, typer.Option("--lr", help="The peak of the schedule.")] = None,
    grad_clip: Annotated[str | None, typer.Option("--grad-clip", help="The largest norm of the gradients.")] = None,
    sets: Sets = None,
    force: Annotated[list[str] | None, typer.Option("--force", metavar="NAME", help="Overrule this objection.")] = None,
    follow: Follow = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Go on with a run that ended. As policy proposes, or from where and with what is asked for."""
    from clipctl.ops.resume import Wish
    from clipctl.spec import patch_of

    if sum(item is not None for item in (epoch, step, checkpoint)) > 1:
        raise typer.BadParameter("--epoch, --step and --checkpoint exclude each other")
    flags: dict[str, Any] = {
        "train.precision": precision,
        "train.batch_size": batch_size,
        "train.seed": seed,
        "train.optim.lr": lr,
        "train.optim.grad_clip_norm": grad_clip,
    }
    given = {path: value for path, value in flags.items() if value is not None}
    wish = Wish(epoch=epoch, step=step, checkpoint=checkpoint, patch=patch_of(sets or ()) | given)
    _resume(run or _only_candidate(), wish, tuple(force or ()), follow=follow, dry_run=dry_run, yes=yes)


def _resume(run: str, wish: Wish, force: tuple[str, ...], *, follow: bool, dry_run: bool, yes: bool) -> None:
    from clipctl.ops import execute, resume as operation, standby
    from clipctl.ops.clock import SystemClock
    from clipctl.spec import load_cluster

    with opened() as store:
        backend = looked_at(store, run)
        cluster = load_cluster(store.run(run).cluster)
        plan = operation.plan(run, wish, store=store, cluster=cluster, clock=SystemClock())
        say(*_plan_lines(plan))
        for item in plan.objections:
            note(f"objection: {clean(item.text)} ({item.name})")
        operation.refuse(plan, force)
        if dry_run or not confirmed("Resume?", yes):
            return
        place = standby.Place(store=store, cluster=cluster, backend=backend, clock=SystemClock())
        standby.clear(run, place, actor=actor(), basis="the run is resumed otherwise")
        begun = execute.execute(
            operation.decision(plan, force),
            run,
            actor=actor(),
            store=store,
            cluster=cluster,
            backend=backend,
            clock=SystemClock(),
        )
        assert begun is not None  # a Resubmit starts something, or is refused
        submitted(begun)
        if follow:
            from clipctl.cli.watch import watch

            watch(begun.identity, cluster.limits, store, backend)


def _only_candidate() -> str:
    """Refused: there is none, or more than one."""
    import time

    from clipctl.errors import Refused
    from clipctl.home import home
    from clipctl.ops import queue, read

    asked = queue.ask(home())
    found = read.resumable(home(), now=time.time(), queues=asked)
    if len(found) == 1:
        return found[0].name
    if not found:
        raise Refused("no run can be resumed", hint="clipctl status")
    names = "\n".join(f"could be {run.name} ({run.state})" for run in found)
    raise Refused(f"{len(found)} runs can be resumed: say which\n{names}", hint=f"clipctl resume {found[0].name}")


def _plan_lines(plan: ResumePlan) -> list[str]:
    spec, before, after = plan.start.spec, plan.before, plan.after
    epochs, into = plan.start_position
    parent = plan.start.parent
    done = plural(epochs, "epoch") + (f" and {plural(into, 'step')}" if into else "")
    begins = f"{parent.path} ({done} done)" if parent else "random weights"
    first = count(epochs * after.steps_per_epoch + into + 1)
    steps = count(after.steps_per_epoch)
    if before.steps_per_epoch != after.steps_per_epoch:
        steps = f"{count(before.steps_per_epoch)} -> {steps}"
    samples = f"{count(plan.samples_seen)} seen there; an epoch is {count(before.samples_per_epoch)}"
    if before.samples_per_epoch != after.samples_per_epoch:
        samples += f" -> {count(after.samples_per_epoch)}"
    changes = [(path, f"{old} -> {new}") for path, (old, new) in sorted(plan.changes.items())]
    lines = [
        f"resume {spec.name}: attempt {plan.number}, with epoch {epochs + 1} of {spec.train.epochs}",
        *pairs(
            [
                ("because", clean(plan.basis)),
                ("from", begins),
                *changes,
                ("steps an epoch", steps),
                ("LR", f"{rate(plan.first_rate)} at its first step, {first}"),
                ("samples", samples),
            ]
        ),
    ]
    if plan.fresh_stream:
        lines.append("  batch, ranks or workers change inside an epoch: its data starts as a fresh stream from there")
    lines += [f"  changed since that checkpoint was written: {clean(line)}" for line in plan.versions]
    return lines + rehearsal(spec)
