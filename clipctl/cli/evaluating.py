"""eval: scores a checkpoint on test sets, by a job of its own. evals: what such jobs have found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.cli.app import AsJson, DryRun, RunName, Sets, Yes, actor, app, confirmed, looked_at, opened
from clipctl.cli.words import clean, columns, note, pairs, plural, say, say_json
from trainer.contract import SCHEMA

if TYPE_CHECKING:
    from clipctl.ops.evaluate import Evaluating, EvaluationPlan, Wish
    from clipctl.ops.read.evaluations import EvaluationView

SUITE = "vtab+"
CLASSIFICATION = {
    "acc1": "ACC@1",
    "acc5": "ACC@5",
    "mean_per_class_recall": "PER CLASS",
    "mean_average_precision": "MAP",
}
WAYS = {"image_retrieval": "IMAGE", "text_retrieval": "TEXT"}  # what is found, by the other
RETRIEVAL = {f"{way}_recall@{k}": f"{title} R@{k}" for way, title in WAYS.items() for k in (1, 5, 10)}


@app.command("eval")
def evaluate(
    run: RunName,
    epoch: Annotated[int, typer.Option("--epoch", min=1, help="Of epoch_N.pt: so many epochs are done.")],
    suite: Annotated[str | None, typer.Option("--suite", help="vtab+, retrieval, or card: both; else vtab+.")] = None,
    datasets: Annotated[
        list[str] | None, typer.Option("--dataset", metavar="NAME", help="This set, not a suite. May be repeated.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--dataset-root", help="Where test sets are; else the cluster's evaluation_data.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images at a time.")] = 64,
    sets: Sets = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on test sets, by a job of its own. The run goes on as it does."""
    from clipctl.ops.evaluate import Wish
    from clipctl.spec import patch_of

    if datasets and suite:
        raise typer.BadParameter("--suite and --dataset exclude each other")
    wish = Wish(
        epoch=epoch,
        suite=suite or SUITE,
        datasets=tuple(datasets or ()),
        data=data,
        batch_size=batch_size,
        patch=patch_of(sets or ()),
    )
    _evaluate(run, wish, dry_run=dry_run, yes=yes, as_json=as_json)


def _evaluate(run: str, wish: Wish, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    from clipctl.ops import evaluate as operation
    from clipctl.ops.clock import SystemClock
    from clipctl.ops.evaluations import take_in
    from clipctl.spec import load_cluster

    with opened() as store:
        backend = looked_at(store, run)
        plan = operation.plan(run, wish, store=store, cluster=load_cluster(store.run(run).cluster))
        if not as_json:
            say(*_plan_lines(plan))
        if dry_run:
            return _json_of(plan, None) if as_json else None
        if plan.cluster.scheduler != "local" and not confirmed("Submit?", yes):
            raise typer.Exit()
        take_in(store, SystemClock())
        begun = operation.submit(plan, actor=actor(), store=store, backend=backend, clock=SystemClock())
        _json_of(plan, begun) if as_json else _told(begun, plan)


def _json_of(plan: EvaluationPlan, begun: Evaluating | None) -> None:
    """`submitted` null: it was not, or nobody knows whether it was accepted."""
    from clipctl.domain import Accepted

    job = begun.answer.scheduler_id if begun and isinstance(begun.answer, Accepted) else None
    say_json({"schema": SCHEMA, "submitted": job, "evaluation": plan.evaluation})


def _plan_lines(plan: EvaluationPlan) -> list[str]:
    evaluation, train = plan.evaluation, plan.evaluation.train
    rows = [
        ("checkpoint", evaluation.checkpoint),
        ("model", f"{train.model}, in fp32{' (TF32 matrix products)' if train.tf32 else ''}"),
        ("sets", f"{plural(len(evaluation.datasets), 'set')} below {evaluation.data}"),
        ("job", f"one process on {plan.cluster.name}"),
    ]
    return [f"evaluate {evaluation.run}: epoch {evaluation.epoch} on {evaluation.suite}", *pairs(rows)]


def _told(begun: Evaluating, plan: EvaluationPlan) -> None:
    from clipctl.domain import Unknown

    run = plan.record.name
    if isinstance(begun.answer, Unknown):
        note(
            f"whether the job was accepted is not known ({begun.answer.reason})\n"
            f"hint: it is not submitted again by itself: clipctl evals {run}"
        )
        return
    say(f"{run}: epoch {plan.evaluation.epoch} is evaluated by job {begun.answer.scheduler_id}: clipctl evals {run}")
    for line in begun.answer.differences:
        note(f"the cluster changed it: {clean(line)}")


@app.command()
def evals(run: RunName, as_json: AsJson = False) -> None:
    """What evaluations of a run's checkpoints gave, by epoch. Never writes anything."""
    from clipctl.home import home
    from clipctl.ops.read.evaluations import evaluations

    view = evaluations(home(), run)
    if as_json:
        return say_json(view)
    if not view.evaluations:
        return say(f"no checkpoint of '{run}' was evaluated yet: clipctl eval {run} --epoch N")
    for each in view.evaluations:
        say(*_evaluation(each))


def _evaluation(view: EvaluationView) -> list[str]:
    done = f"{len(view.scores)} of {plural(view.wanted, 'set')}"
    job = f", job {view.scheduler_id}" if view.scheduler_id else ""
    why = f" ({clean(view.reason)})" if view.reason else ""
    lines = [f"epoch {view.epoch} on {clean(view.suite)}: {view.state}{why}, {done}{job}; {view.checkpoint}"]
    lines += [*_table(view, CLASSIFICATION), *_table(view, RETRIEVAL)]
    lines += [f"  {clean(name)}: not scored: {clean(error)}" for name, error in view.errors.items()]
    return [*lines, f"  log: {view.log}"] if view.state == "failed" else lines


def _table(view: EvaluationView, titles: dict[str, str]) -> list[str]:
    """Sets that have one of these metrics, in percent; a column that none has is left out."""
    rows = {name: found for name, found in view.scores.items() if titles.keys() & found.keys()}
    shown = [metric for metric in titles if any(metric in found for found in rows.values())]
    cells = [
        (f"  {clean(name)}", *(f"{found[metric]:.1%}" if metric in found else "" for metric in shown))
        for name, found in rows.items()
    ]
    head = ("  SET", *(titles[metric] for metric in shown))
    return columns([head, *cells], right=range(1, len(shown) + 1)) if rows else []
