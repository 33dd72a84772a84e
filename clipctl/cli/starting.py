"""launch and render: from a preset or a file to a script, and to a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.cli.app import (
    DryRun,
    Follow,
    Sets,
    Yes,
    actor,
    app,
    complete_cluster,
    complete_preset,
    confirmed,
    opened,
)
from clipctl.cli.words import clean, count, note, pairs, plural, rate, say, write
from trainer.contract import Engine

if TYPE_CHECKING:
    from clipctl.ops.execute import Submitted
    from clipctl.ops.launch import LaunchPlan
    from clipctl.spec import RunSpec

What = Annotated[
    str,
    typer.Argument(
        metavar="PRESET|FILE",
        autocompletion=complete_preset,
        help="A file if it has a / or .yaml, else a preset.",
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="The run's name; else the spec's.")]
ClusterName = Annotated[
    str | None, typer.Option("--cluster", autocompletion=complete_cluster, help="Where; else the spec's.")
]


@app.command()
def launch(
    what: What,
    name: Name = None,
    cluster: ClusterName = None,
    sets: Sets = None,
    dry_run: DryRun = False,
    follow: Follow = False,
    yes: Yes = False,
) -> None:
    """Start a run. Everything that can be refused is, before anything is written."""
    from clipctl.home import home
    from clipctl.ops import launch as operation, read

    plan = operation.plan(what, sets=sets or (), name=name, cluster=cluster)
    operation.refuse_taken(plan, read.run_names(home()))
    say(*_plan_lines(plan))
    if dry_run:
        return
    # On this machine a launch costs nobody anything but its own processors.
    if plan.start.cluster.scheduler != "local" and not confirmed(f"Submit {plan.spec.name}?", yes):
        raise typer.Exit()
    _start(plan, follow)


def _start(plan: LaunchPlan, follow: bool) -> None:
    from clipctl.backends.by_name import backend_for
    from clipctl.ops import launch as operation
    from clipctl.ops.clock import SystemClock
    from clipctl.ops.digits import write_digits

    cluster = plan.start.cluster
    backend = backend_for(cluster.scheduler, cluster.limits)
    with opened() as store:  # first: a home that is not to be trusted gets no digits either
        if plan.prepare is not None:
            write_digits(plan.prepare)
        begun = operation.launch(plan, actor=actor(), store=store, backend=backend, clock=SystemClock())
        submitted(begun)
        if follow:
            from clipctl.cli.watch import watch

            watch(begun.identity, cluster.limits, store, backend)


def submitted(begun: Submitted) -> None:
    """What became of a submission, and what to type next."""
    from clipctl.domain import Unknown

    run = begun.identity.run
    if isinstance(begun.answer, Unknown):
        note(
            f"whether the job was accepted is not known ({begun.answer.reason})\n"
            f"hint: it will be looked up, never submitted again blindly: clipctl status {run}"
        )
    else:
        say(f"{run}: attempt {begun.identity.attempt} is job {begun.answer.scheduler_id}: clipctl status {run}")
        for line in begun.answer.differences:
            note(f"the cluster changed it: {clean(line)}")


@app.command()
def render(what: What, name: Name = None, cluster: ClusterName = None, sets: Sets = None) -> None:
    """Print the job script. Byte for byte what a launch submits, but for the run's id and the job's nonce."""
    from clipctl.ops import launch as operation

    write(operation.script(what, sets=sets or (), name=name, cluster=cluster))


def _plan_lines(plan: LaunchPlan) -> list[str]:
    spec, geometry = plan.spec, plan.geometry
    train = spec.train
    steps, samples = count(geometry.steps_per_epoch), count(geometry.samples_per_epoch)
    rates = f"{rate(plan.first_rate)} at the first step, at most {rate(train.optim.lr)}"
    data = train.data.train_data + (" (the digits are written there first)" if plan.prepare else "")
    lines = [
        f"launch {spec.name} on {spec.cluster}",
        *pairs(
            [
                ("model", f"{train.model}, {train.precision}"),
                ("batch", f"{_batch(spec)} = {count(geometry.global_batch)}"),
                ("length", f"{plural(train.epochs, 'epoch')} of {steps} steps, {samples} samples"),
                ("LR", rates),
                ("data", data),
                ("folder", str(plan.start.folder.path)),
            ]
        ),
    ]
    return lines + rehearsal(spec)


def _batch(spec: RunSpec) -> str:
    passes = f" x {spec.train.accum_freq} forward passes" if spec.train.accum_freq > 1 else ""
    return f"{spec.ranks} ranks x {spec.train.batch_size}{passes}"


def rehearsal(spec: RunSpec) -> list[str]:
    """A run that carries faults, or trains no model, says so everywhere."""
    train, lines = spec.train, []
    if train.engine is Engine.REHEARSAL:
        lines.append(f"  REHEARSAL: a few hundred parameters in place of {train.model}, and no data")
    places = [f"{fault.kind} from epoch {fault.at_epoch}, step {fault.at_step}" for fault in train.faults]
    return lines + ([f"  REHEARSAL: carries the fault {'; '.join(places)}"] if places else [])
