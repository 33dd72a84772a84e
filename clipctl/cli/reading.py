"""status, show, logs, checkpoints: commands that change nothing (but what `checkpoints --verify` found out)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.cli.app import AsJson, RunName, app, complete_run
from clipctl.cli.words import clean, columns, count, duration, note, number, pairs, say, say_json, size

if TYPE_CHECKING:
    from clipctl.ops.logs import Line
    from clipctl.ops.read import CheckpointView, JobView, RunView, StatusView

LONGEST_DETAIL = 160  # characters of an error; its evidence has the whole
NAME_WIDTH = 24  # of 80 columns; a longer name has a line of its own


@app.command()
def status(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", autocompletion=complete_run, help="One run, in full."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All runs, not only live, held and the latest 20.")] = False,
    as_json: AsJson = False,
) -> None:
    """Where runs stand. Never writes anything."""
    from clipctl.home import home
    from clipctl.ops import queue, read

    asked, now = queue.ask(home()), time.time()
    if run is None:
        view = read.status(home(), now=now, queues=asked, everything=everything)
    else:
        view = read.run_status(home(), run, now=now, queues=asked)
    if as_json:
        return say_json(view)
    if view.scheduler:
        note(f"the scheduler could not be asked: {clean(view.scheduler)}")
    if view.unwatched is not None:
        note(f"NOBODY WATCHES: the watchdog has not looked for {duration(view.unwatched)}: clipctl watchdog status")
    say(*(overview(view) if run is None else _one(view.runs[0], now)))


def overview(view: StatusView) -> list[str]:
    if not view.runs:
        return ["no runs yet: clipctl launch demo --follow"]
    header = ("RUN", "STATE", "EPOCH", "STEP", "SAMPLES", "LOSS", "/S", "ETA")
    rows = [header] + [_row(run) for run in view.runs]
    lines = columns(rows, right=range(2, 8))
    shown = [lines[0]]
    for run, line in zip(view.runs, lines[1:], strict=True):
        if len(run.name) > NAME_WIDTH:
            shown.append(run.name)
        shown += [line, *(f"    {text}" for text in remarks(run))]
    if len(view.runs) < view.total:
        shown.append(f"{view.total - len(view.runs)} more: clipctl status --all")
    return shown


def _row(run: RunView) -> tuple[str, ...]:
    at = run.progress
    steps = "-" if at.step_in_epoch is None else f"{at.step_in_epoch}/{at.steps_per_epoch or '?'}"
    return (
        run.name if len(run.name) <= NAME_WIDTH else "",
        run.state,
        "-" if at.epoch is None else f"{at.epoch}/{at.epochs}",
        steps,
        _short(at.samples_seen),
        number(at.loss),
        "-" if at.samples_per_second is None else f"{at.samples_per_second:.0f}",
        duration(at.eta_seconds),
    )


def _short(samples: int) -> str:
    """Three digits: 12.8B, 200M, 3,840."""
    for unit, scale in (("B", 10**9), ("M", 10**6)):
        if samples >= scale:
            return f"{samples / scale:.3g}{unit}"
    return count(samples)


def remarks(run: RunView) -> list[str]:
    """What a person must not miss: rehearsed faults, how it ended, and what to type."""
    lines = [f"REHEARSAL: carries the fault {', '.join(run.faults)}"] if run.faults else []
    lines += [clean(text) for text in run.notes]
    if run.state == "held":
        lines.append(f"held: {clean(run.hold_reason or '')}")
    if run.state in ("stopped", "cancelled") and run.last_incident is not None:
        lines.append(incident_line(run))
    if run.state not in ("completed", "running", "queued"):
        lines.append(f"next: {run.next}")
    return lines


def incident_line(run: RunView) -> str:
    incident = run.last_incident
    if incident is None:
        return ""
    where = ""
    if incident.epoch is not None:
        where = f" at epoch {incident.epoch}"
        where += "" if incident.step_in_epoch is None else f", step {incident.step_in_epoch}"
    return f"{incident.kind.replace('_', ' ')}{where} ({_brief(clean(incident.detail))})"


def _earlier(run: RunView) -> str:
    """An incident that was gone on from is not one of the newest attempt."""
    incident = run.last_incident
    return f"attempt {incident.attempt} " if incident is not None and incident.attempt != run.attempts else ""


def _brief(text: str) -> str:
    """Two lines of a terminal: some libraries answer a wrong name with all the right ones."""
    return text if len(text) <= LONGEST_DETAIL else text[: LONGEST_DETAIL - 3] + "..."


def _one(run: RunView, now: float) -> list[str]:
    at = run.progress
    alive = "" if run.last_sign_of_life is None else f"{duration(max(0.0, now - run.last_sign_of_life))} ago"
    steps = "" if at.step_in_epoch is None else f", step {at.step_in_epoch} of {at.steps_per_epoch or '?'}"
    loss = "" if at.loss is None else f"{number(at.loss)}   ({number(at.samples_per_second)} samples/s)"
    lines = [
        f"{run.name}: {run.state}",
        *pairs(
            [
                ("attempt", f"{run.attempts}, {run.precision}, {run.batch} on {run.cluster}"),
                ("epoch", "" if at.epoch is None else f"{at.epoch} of {at.epochs}{steps}"),
                ("samples", count(at.samples_seen)),
                ("loss", loss),
                ("ETA", duration(at.eta_seconds) if at.eta_seconds is not None else ""),
                ("phase", run.phase or ""),
                ("heard", alive),
                ("job", _job(run.job, now) if run.job and run.job.live else ""),
                ("nodes", run.job.nodes if run.job and run.job.live else ""),
                ("standby", clean(run.standby.text) if run.standby else ""),
                ("checkpoint", run.last_checkpoint.path if run.last_checkpoint else ""),
                ("incident", _earlier(run) + incident_line(run)),
            ]
        ),
    ]
    evidence = run.last_incident.lines if run.last_incident else ()
    lines += [f"      {clean(text)}" for text in evidence]
    lines += [f"  {text}" for text in remarks(run) if text != incident_line(run) and not text.startswith("next: ")]
    return [*lines, f"  next: {run.next}"]


def _job(job: JobView, now: float) -> str:
    text = f"{job.scheduler_id or '?'} {job.state}"
    if job.expected_start is not None:
        text += f", may start {time.strftime('%Y-%m-%d %H:%M', time.localtime(job.expected_start))} (an estimate)"
    if job.ends_at is not None:
        text += f", {duration(max(0.0, job.ends_at - now))} left"
    return text


@app.command()
def show(run: RunName, as_json: AsJson = False) -> None:
    """A run's spec, and the tree of its attempts with their causes and changes."""
    from clipctl.home import home
    from clipctl.ops import queue, read

    asked, now = queue.ask(home()), time.time()
    view = read.show(home(), run, now=now, queues=asked)
    if as_json:
        return say_json(view)
    from clipctl.cli.tree import lineage

    say(*_one(view.run, now), "")
    say(*lineage(view), "")
    say("spec as launched", *spec_lines(view.spec))


def spec_lines(spec: object) -> list[str]:
    """Every value with its dotted path, as --set would take it."""
    from trainer.contract import to_jsonable

    leaves = _leaves(to_jsonable(spec), "")
    shown = (leaf for leaf in leaves if leaf[1] is not None or not leaf[0].startswith("slurm."))  # many, and few given
    return [f"  {clean(path)}={clean(_value(value))}" for path, value in shown]


def _leaves(value: object, path: str) -> list[tuple[str, object]]:
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(item, f"{path}.{key}" if path else str(key))]
    return [(path, value)]


def _value(value: object) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, default=str)


@app.command()
def checkpoints(
    run: RunName,
    verify: Annotated[bool, typer.Option("--verify", help="Read every byte, and remember what was found.")] = False,
    as_json: AsJson = False,
) -> None:
    """A run's checkpoints, by attempt."""
    from clipctl.home import home
    from clipctl.ops import read

    damaged: tuple[str, ...] = ()
    if verify:
        from clipctl.cli.app import looked_at, opened
        from clipctl.ops import verify as operation
        from clipctl.ops.clock import SystemClock

        with opened() as store:
            looked_at(store, run)
            damaged = operation.verify(run, store=store, clock=SystemClock())
    view = read.checkpoints(home(), run)
    if as_json:
        say_json(view)
    elif not view.checkpoints:
        say(f"run '{run}' has no checkpoint yet")
    else:
        header = ("CHECKPOINT", "EPOCHS", "STEP", "SAMPLES", "LOSS", "SIZE", "STATE")
        say(*columns([header, *map(_checkpoint_row, view.checkpoints)], right=range(1, 6)))
    if damaged:
        from clipctl.errors import Damaged

        raise Damaged("\n".join(damaged), hint=f"clipctl resume {run} starts from one that is whole")


def _checkpoint_row(item: CheckpointView) -> tuple[str, ...]:
    epochs = f"{item.epochs_done}" + (f" +{item.step_in_epoch}" if item.step_in_epoch else "")
    where = (clean(item.path), epochs, count(item.step), count(item.samples_seen))
    return (*where, number(item.loss), size(item.size), item.state)


@app.command()
def logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    rank: Annotated[int | None, typer.Option("--rank", help="Of this rank; else the script's and rank 0's.")] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Of this attempt; else the newest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, with a schema number.")] = False,
) -> None:
    """What a run's processes printed."""
    from clipctl.home import home
    from clipctl.ops import logs as operation, queue
    from clipctl.ops.clock import SystemClock

    job = operation.job_of(home(), run, attempt)
    pulse = queue.Pulse(home(), job.identity.nonce)

    def alive() -> bool:
        return job.live and pulse.may_live()

    for line in operation.lines(job, rank=rank, alive=alive if follow else None, clock=SystemClock()):
        say(_log_json(line, job.identity.attempt) if as_json else line.text)


def _log_json(line: Line, attempt: int) -> str:
    from trainer.contract import SCHEMA, dumps

    return dumps({"schema": SCHEMA, "attempt": attempt, "log": line.log, "text": line.text})
