"""doctor: is this site ready for a run?"""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.cli.app import AsJson, Sets, app, complete_cluster, complete_preset
from clipctl.cli.words import clean, columns, say, say_json
from clipctl.errors import ExitStatus


@app.command()
def doctor(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[PRESET|FILE]", autocompletion=complete_preset, help="Could this be launched here?"),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", autocompletion=complete_cluster, help="Else the spec's, or the one here.")
    ] = None,
    sets: Sets = None,
    job: Annotated[bool, typer.Option("--job", help="Also run one task for a minute on a compute node.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check this site: schedulers, limits, disks, clocks. Changes nothing."""
    from clipctl.backends.transport import Here
    from clipctl.ops import doctor as operation
    from clipctl.ops.launch import cluster_here, lacking
    from clipctl.spec import load_cluster, resolve

    spec = resolve(what, sets=sets or (), cluster=cluster, fallback=cluster_here) if what else None
    profile = load_cluster(spec.cluster if spec else cluster or cluster_here() or "local")
    problems = lacking(spec, profile) if spec else ()
    report = operation.examine(profile, spec, problems, Here(), run_job=job)
    if as_json:
        say_json(report)
    else:
        say(f"cluster {report.cluster}")
        say(*columns([(f"  {item.level}", item.subject, clean(item.text)) for item in report.findings]))
    if not report.ready:
        raise typer.Exit(ExitStatus.REFUSED)
