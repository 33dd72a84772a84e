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
from clipctl.spec.model import Frozen
from clipctl.spec.patch import Tree
from clipctl.spec.patterns import ACCEL_BIND, CPU_BIND, OWN_VARIABLES, SUFFIX, VARIABLE, WORD
from clipctl.spec.run import keys
from clipctl.spec.slurm import SbatchOptions
from clipctl.spec.words import Problem, control_problems, explained, nearest, refused, shown
from trainer.contract import Count


class Srun(Frozen):
    """How the machine wants its ranks bound."""

    cpu_bind: Annotated[str, Field(pattern=CPU_BIND)] | None = None
    accel_bind: Annotated[str, Field(pattern=ACCEL_BIND)] | None = None


class Cluster(Frozen):
    name: str
    scheduler: Literal["local", "slurm"]
    cluster_name: Annotated[str, Field(pattern=WORD)] | None = None  # Slurm's ClusterName, by which this is found
    account_required: bool = False  # the site bills projects: a launch without slurm.account is refused
    slurm: SbatchOptions = SbatchOptions()  # of every run that does not say otherwise
    srun: Srun = Srun()
    gpus_per_node: Count | None = None
    root: Path | None = None  # a folder that all nodes see; run folders go below it
    evaluation_data: Path | None = None  # a folder that all nodes see, with clip_benchmark's test sets (wds_*)
    # where ranks meet: the first host by its name, or by Slurm's NodeAddr where nothing resolves the name
    master_addr: Literal["hostname", "node_address"] = "hostname"
    master_addr_suffix: Annotated[str, Field(pattern=SUFFIX)] = ""  # makes the fast network's name of the host's
    env: Mapping[Annotated[str, Field(pattern=VARIABLE)], str] = {}
    setup: tuple[str, ...] = ()  # shell lines run before the ranks: modules, conda
    limits: Limits = Limits()


SLURM_ONLY = ("cluster_name", "account_required", "slurm", "srun", "master_addr", "master_addr_suffix")


def load_cluster(name: str) -> Cluster:
    """The user's profile of that name, or the packaged one. NotFound, or InvalidSpec with every mistake in the file."""
    files = cluster_files(name)
    if not files:
        near = nearest(name, cluster_names())
        instead = f"did you mean {near}?" if near else f"there are {', '.join(cluster_names())}"
        raise NotFound(f"no cluster profile {shown(name)}; {instead}", "clipctl presets")
    tree, origins = stacked(read_stack(files[0], _extended))
    tree = {"name": name} | tree
    problems = [*control_problems(tree), *_own_variables(tree), *_of_slurm_alone(tree)]
    try:
        cluster = Cluster.model_validate(tree)
    except ValidationError as error:
        problems += [explained(item, tuple(keys(Cluster))) for item in error.errors(include_url=False)]
    if problems:
        raise InvalidSpec(tuple(problem.line(origin_of(problem.path, origins)) for problem in problems))
    return cluster


def cluster_of(cluster_name: str) -> str | None:
    """The first profile for a Slurm of that ClusterName; None: there is none."""
    return next((name for name in cluster_names() if load_cluster(name).cluster_name == cluster_name), None)


def _own_variables(tree: Tree) -> Iterator[Problem]:
    env = tree.get("env")
    for key in env if isinstance(env, dict) else ():
        if key.startswith(OWN_VARIABLES):
            names = ", ".join(OWN_VARIABLES[1:])
            rule = f": names with {OWN_VARIABLES[0]}, {names} belong to clipctl's job script"
            yield Problem(f"env.{key}", rule)


def _of_slurm_alone(tree: Tree) -> Iterator[Problem]:
    if tree.get("scheduler") == "local":
        for key in SLURM_ONLY:
            if key in tree:
                yield refused(key, tree[key], "is for scheduler: slurm")


def _extended(name: str, file: Path) -> Path:
    """A user's profile that extends its own name means the packaged one that it stands before."""
    found = next((path for path in cluster_files(name) if path != file), None)
    if found is None:
        known = ", ".join(cluster_names())
        raise InvalidSpec((f"{file}: extends: {shown(name)} is no cluster profile; there are {known}",))
    return found
