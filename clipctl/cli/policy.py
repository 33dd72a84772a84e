"""policy: why it decides as it does, now and in hindsight. Nothing is decided here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.cli.app import AsJson, RunName, app, complete_run, help_if_bare, opened
from clipctl.cli.words import clean, columns, pairs, say, say_json

if TYPE_CHECKING:
    from clipctl.ops.explain import ExplainView, RuleView
    from clipctl.policy.replay import Answer, Moment, ReplayView

policy = typer.Typer(invoke_without_command=True, help="Why clipctl decides as it does.")
app.add_typer(policy, name="policy")


@policy.callback()
def _group(context: typer.Context) -> None:
    help_if_bare(context)


@policy.command()
def explain(run: RunName, as_json: AsJson = False) -> None:
    """What each rule says of a run now, in order: the first that speaks is what the watchdog would do."""
    from clipctl.backends.by_name import backend_for
    from clipctl.ops import explain as operation
    from clipctl.ops.clock import SystemClock
    from clipctl.spec import load_cluster

    with opened() as store:
        cluster = load_cluster(store.run(run).cluster)
        backend = backend_for(cluster.scheduler, cluster.limits)
        view = operation.explain(run, store=store, backend=backend, limits=cluster.limits, clock=SystemClock())
    if as_json:
        return say_json(view)
    say(*_explained(view))


@policy.command()
def replay(
    what: Annotated[
        str,
        typer.Argument(metavar="RUN|TIMELINE", autocompletion=complete_run, help="A run, or a file or name (l14)."),
    ],
    as_json: AsJson = False,
) -> None:
    """The past through today's policy: what it would decide at each trouble, next to what people did."""
    view = _replayed(what)
    if as_json:
        return say_json(view)
    say(*_story(view))


def _replayed(what: str) -> ReplayView:
    """A run of that name comes before a timeline that is shipped."""
    from clipctl.home import home
    from clipctl.ops import read

    if what in read.run_names(home()):
        from clipctl.ops.replay import replay as of_run

        with opened() as store:
            return of_run(what, store=store)
    from clipctl.policy.past import replay_timeline
    from clipctl.spec.timeline import load_timeline

    return replay_timeline(load_timeline(what))


# --- as text ----------------------------------------------------------------------------------------


def _explained(view: ExplainView) -> list[str]:
    chosen = view.chosen
    rows = [(rule.rule.replace("_", " "), _word(rule), rule.speaks_when) for rule in view.rules]
    lines = [f"{view.run}: {chosen.decision}: {clean(chosen.basis)}"]
    if chosen.decision == "resubmit":
        changes = [(path, str(value)) for path, value in chosen.patch.items()]
        lines += pairs([("from", chosen.parent or "random weights"), *changes])
    return lines + columns([("RULE", "", "SPEAKS WHEN"), *rows])


def _word(rule: RuleView) -> str:
    if not rule.asked:
        return "not asked"
    return "silent" if rule.said is None else rule.said.decision


def _story(view: ReplayView) -> list[str]:
    lines = [clean(view.title), *pairs((f"[{key}]", text) for key, text in view.sources.items())]
    for number, moment in enumerate(view.moments, start=1):
        lines += ["", *_moment(number, moment)]
    return lines


def _moment(number: int, moment: Moment) -> list[str]:
    sources = f" [{', '.join(moment.sources)}]" if moment.sources else ""
    rows = [("people", clean(moment.people))]
    for answer in moment.clipctl:
        rows += [("clipctl", _answer(answer)), ("because", clean(answer.basis))]
    return [f"{number}. {clean(moment.when)}: {clean(moment.what)}{sources}", *pairs(rows, indent="   ")]


def _answer(answer: Answer) -> str:
    rule = f"  ({answer.rule.replace('_', ' ')})"
    if answer.decision != "resubmit":
        return answer.decision + rule
    changes = ", ".join(f"{path}={value}" for path, value in answer.changes.items()) or "same settings"
    return f"resubmit from {answer.start}, {changes}{rule}"
