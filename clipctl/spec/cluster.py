"""Cluster: the typed profile of a machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from clipctl.domain import Limits
from clipctl.errors import InvalidSpec, NotFound
from clipctl.presets import cluster_files, cluster_names
from clipctl.spec.catalogue import origin_of, read_stack, stacked
from clipctl.spec.patch import Tree
from clipctl.spec.patterns import OWN_VARIABLES, VARIABLE, WALL_TIME
from clipctl.spec.run import Frozen, keys
from clipctl.spec.words import Problem, control_problems, explained, nearest, shown
from trainer.contract import Count


class Cluster(Frozen):
    name: str
    scheduler: Literal["local", "slurm"]
    partition: str | None = None
    account: str | None = None
    gpus_per_node: Count | None = None
    wall_time_limit: Annotated[str, Field(pattern=WALL_TIME)] | None = None
    root: Path | None = None  # a folder that all nodes see; run folders go below it
    master_addr_suffix: str = ""  # added to the first host's name for the fast network's address
    env: Mapping[Annotated[str, Field(pattern=VARIABLE)], str] = {}
    setup: tuple[str, ...] = ()  # shell lines run before the ranks: modules, conda
    limits: Limits = Limits()


def load_cluster(name: str) -> Cluster:
    """The user's profile of that name, or the packaged one. NotFound, or InvalidSpec with every mistake in the file."""
    files = cluster_files(name)
    if not files:
        near = nearest(name, cluster_names())
        instead = f"did you mean {near}?" if near else f"there are {', '.join(cluster_names())}"
        raise NotFound(f"no cluster profile {shown(name)}; {instead}", "clipctl presets")
    tree, origins = stacked(read_stack(files[0], _extended))
    tree = {"name": name} | tree
    problems = [*control_problems(tree), *_own_variables(tree)]
    try:
        cluster = Cluster.model_validate(tree)
    except ValidationError as error:
        problems += [explained(item, tuple(keys(Cluster))) for item in error.errors(include_url=False)]
    if problems:
        raise InvalidSpec(tuple(problem.line(origin_of(problem.path, origins)) for problem in problems))
    return cluster


def _own_variables(tree: Tree) -> Iterator[Problem]:
    env = tree.get("env")
    for key in env if isinstance(env, dict) else ():
        if key.startswith(OWN_VARIABLES):
            yield Problem(f"env.{key}", f": names with {OWN_VARIABLES} belong to clipctl's job script")


def _extended(name: str, file: Path) -> Path:
    """A user's profile that extends its own name means the packaged one that it stands before."""
    found = next((path for path in cluster_files(name) if path != file), None)
    if found is None:
        known = ", ".join(cluster_names())
        raise InvalidSpec((f"{file}: extends: {shown(name)} is no cluster profile; there are {known}",))
    return found
