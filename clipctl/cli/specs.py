"""presets, validate, data: what can be launched, and what it is launched on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipctl.cli.app import AsJson, Sets, app, complete_preset, help_if_bare
from clipctl.cli.words import say, say_json

SCHEMA = 1  # of the JSON that these commands print

presets = typer.Typer(help="What can be launched by name.", rich_markup_mode=None, invoke_without_command=True)
data = typer.Typer(help="Check data sets, and make the demo's.", rich_markup_mode=None, invoke_without_command=True)
app.add_typer(presets, name="presets")
app.add_typer(data, name="data")


@presets.callback()
def list_presets(context: typer.Context, as_json: AsJson = False) -> None:
    """The presets and cluster profiles that can be named."""
    from clipctl.presets import cluster_names, preset_names

    if context.invoked_subcommand is not None:
        return
    if as_json:
        return say_json({"schema": SCHEMA, "presets": preset_names(), "clusters": cluster_names()})
    say("presets", *(f"  {name}" for name in preset_names()))
    say("clusters", *(f"  {name}" for name in cluster_names()))
    say("clipctl presets show NAME")


@presets.command("show")
def show_preset(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_preset)],
    as_json: AsJson = False,
) -> None:
    """A preset or cluster profile, as it is written. With --json, with every value resolved."""
    from clipctl.errors import NotFound
    from clipctl.presets import cluster_files, preset_file

    preset = preset_file(name)
    file = preset or next(iter(cluster_files(name)), None)
    if file is None:
        raise NotFound(f"there is no preset or cluster '{name}'", hint="clipctl presets")
    if not as_json:
        return say(file.read_text(encoding="utf-8").rstrip("\n"))
    from clipctl.spec import load_cluster, resolve

    if preset is not None:
        return say_json({"schema": SCHEMA, "spec": resolve(name).model_dump(mode="json")})
    say_json({"schema": SCHEMA, "cluster": load_cluster(name).model_dump(mode="json")})


@app.command()
def validate(
    argument: Annotated[str, typer.Argument(metavar="PRESET|FILE", autocompletion=complete_preset)],
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Say every mistake in a spec, each with its place and what to type instead."""
    from clipctl.errors import InvalidSpec
    from clipctl.spec import resolve

    try:
        spec = resolve(argument, sets=sets or ())
    except InvalidSpec as error:
        if as_json:
            say_json({"schema": SCHEMA, "valid": False, "problems": error.problems})
        raise
    if as_json:
        return say_json({"schema": SCHEMA, "valid": True, "problems": []})
    say(f"{argument} is a valid spec: run {spec.name} on {spec.cluster}, {spec.ranks} ranks")


@data.callback()
def _data(context: typer.Context) -> None:
    help_if_bare(context)


@data.command("digits")
def digits(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="$CLIPCTL_HOME/data/digits where not given.")
    ] = None,
) -> None:
    """Handwritten digits as webdataset shards: the demo's data. The images are those that scikit-learn ships."""
    from clipctl.home import home
    from clipctl.ops.digits import write_digits

    if folder is None:
        home().mkdir(mode=0o700, parents=True, exist_ok=True)
    made = write_digits((folder or home() / "data" / "digits").absolute())
    say(f"{made.folder}: {made.train_samples} images to train on, {made.test_samples} held out")
