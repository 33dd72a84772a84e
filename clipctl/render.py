"""From a RunSpec to the script that is submitted, byte for byte. Pure: reads its own templates and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from clipctl.domain import EvaluationIdentity, JobIdentity
from clipctl.layout import JobFolder, RunFolder
from clipctl.spec.cluster import Cluster
from clipctl.spec.run import Resources, RunSpec
from clipctl.spec.words import is_control


class Shell(str):
    """Text that may stand in a script: quoted, or a line of the cluster profile that is meant to be run."""


def render(spec: RunSpec, cluster: Cluster, *, identity: JobIdentity, run_folder: RunFolder, python: str) -> str:
    """The script of one submission. `python`: the interpreter on the nodes."""
    values = _usual(spec, cluster, identity, run_folder, run_folder.job(identity.nonce)) | {"python": python}
    if cluster.scheduler == "slurm":
        values |= _slurm(spec, cluster)
    return environment().get_template(f"{cluster.scheduler}.sh.j2").render(values)


def render_evaluation(
    spec: RunSpec, cluster: Cluster, *, identity: EvaluationIdentity, run_folder: RunFolder, python: str
) -> str:
    """The script of an evaluation: one process. It saves nothing, so that it is not warned before its time is over."""
    alone = spec.model_copy(update={"resources": Resources(nodes=1, ranks_per_node=1)})
    values = _usual(alone, cluster, identity, run_folder, run_folder.evaluation(identity.nonce)) | {"python": python}
    if cluster.scheduler == "slurm":
        values |= {**_slurm(alone, cluster), "lead": None}
    return environment().get_template("evaluation.sh.j2").render(values, template=f"{cluster.scheduler}.sh.j2")


def _usual(
    spec: RunSpec, cluster: Cluster, identity: JobIdentity, run_folder: RunFolder, job: JobFolder
) -> dict[str, Any]:
    attempt = run_folder.attempt(identity.attempt)
    return {
        "run": spec.name,
        "attempt": identity.attempt,
        "nonce": identity.nonce,
        "job_name": identity.job_name,
        "comment": identity.comment,
        "run_folder": run_folder.path,
        "attempt_folder": attempt.path,
        "job_folder": job.path,
        "exit_file": job.exit,
        "log_folder": job.logs,
        "ranks": spec.ranks,
        "claim_wait": cluster.limits.claim_wait,
        "rank_grace": cluster.limits.rank_grace,
        "env": cluster.env,
        "setup": cluster.setup,
    }


def _slurm(spec: RunSpec, cluster: Cluster) -> Mapping[str, Any]:
    """What only sbatch and srun are told. The profile's own `slurm` is in the run's already."""
    resources, asked = spec.resources, spec.slurm
    gpus = ("gpu", *filter(None, [asked.gpu_type]), str(resources.ranks_per_node))
    return {
        "nodes": resources.nodes,
        "ranks_per_node": resources.ranks_per_node,
        "gres": ":".join(gpus) if cluster.gpus_per_node is not None or asked.gpu_type else None,
        "lead": asked.lead,
        "options": asked.directives(),
        "cpus_per_task": asked.cpus_per_task,
        "node_address": cluster.master_addr == "node_address",
        "master_addr_suffix": cluster.master_addr_suffix,
        "cpu_bind": cluster.srun.cpu_bind,
        "accel_bind": cluster.srun.accel_bind,
    }


@cache
def environment() -> Environment:
    """Where templates are read, with the filters `quoted` and `as_code` and a refusal of values that passed neither."""
    made = Environment(
        loader=PackageLoader("clipctl"),
        undefined=StrictUndefined,
        finalize=_only_shell,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # HTML only; ours is `finalize`
    )
    made.filters |= {"quoted": quoted, "as_code": as_code}
    return made


def quoted(value: object) -> Shell:
    """One shell word that means exactly `value`. ValueError: a control character, which a spec cannot hold."""
    text = str(value)
    if any(map(is_control, text)):
        raise ValueError(f"control character in {text!r}")
    return Shell(shlex.quote(text))


def as_code(line: str) -> Shell:
    """A line of a cluster profile's `setup`: shell by intent, written by whoever administers the profile."""
    if any(map(is_control, line)):
        raise ValueError(f"control character in {line!r}")
    return Shell(line)


def _only_shell(value: object) -> Shell:
    """Called by Jinja for every {{ value }}: a filter cannot be forgotten."""
    if not isinstance(value, Shell):
        raise TypeError(f"a template writes {value!r:.80} without | quoted")
    return value
