"""From what was typed to a run that is on its way. Everything that can be refused is, before anything is written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from clipctl.backends.transport import Here
from clipctl.domain import JobIdentity
from clipctl.errors import InvalidSpec, Refused
from clipctl.layout import RunFolder
from clipctl.ops import execute
from clipctl.ops.clock import Clock
from clipctl.site import preflight, slurm
from clipctl.spec import Cluster, RunSpec, cluster_of, default_cluster, load_cluster, missing_data, resolve
from clipctl.spec.shards import sources
from trainer.schedule import Geometry, learning_rate

if TYPE_CHECKING:
    from clipctl.backends import Backend
    from clipctl.store.writer import Store

ROOT_TO_COME = Path("/the/root/that/all/nodes/see")  # in a script that is only looked at
DIGITS_SHARDS, DIGITS_TEST = "train-{000000..000007}.tar", "test.tar"  # what `clipctl data digits` writes


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    start: execute.Start
    prepare: Path | None = None  # a folder of digits that is made first

    @property
    def spec(self) -> RunSpec:
        return self.start.spec

    @property
    def geometry(self) -> Geometry:
        return Geometry.of(self.spec.train, self.spec.ranks)

    @property
    def first_rate(self) -> float:
        train, steps = self.spec.train, self.geometry.steps_per_epoch
        return learning_rate(train.optim, 0, epochs=train.epochs, steps_per_epoch=steps)


def plan(argument: str, *, sets: Sequence[str], name: str | None, cluster: str | None) -> LaunchPlan:
    """NotFound, or InvalidSpec with every mistake: of the spec, or else of what this machine lacks for it."""
    spec = resolve(argument, sets=sets, name=name, cluster=cluster, fallback=cluster_here)
    profile = load_cluster(spec.cluster)
    if problems := lacking(spec, profile):
        raise InvalidSpec(problems, f"clipctl doctor {argument} --cluster {spec.cluster}")
    return LaunchPlan(start=_start(spec, profile), prepare=_digits_folder(spec))


def lacking(spec: RunSpec, profile: Cluster) -> tuple[str, ...]:
    """All that this machine lacks for a launch, one line each with what to type."""
    problems = [] if _digits_folder(spec) else list(missing_data(spec))
    if profile.scheduler == "slurm":
        problems += preflight.problems(spec, profile, slurm.ask(Here()))
    return tuple(problems)


def cluster_here() -> str | None:
    """What the user's config names; else the profile for this machine's Slurm, by its ClusterName."""
    if (named := default_cluster()) is not None:
        return named
    site = slurm.ask(Here())
    return cluster_of(site.cluster_name) if isinstance(site, slurm.Site) else None


def _start(spec: RunSpec, cluster: Cluster) -> execute.Start:
    assert spec.root is not None  # a local run has one by itself, and any other was refused without
    return execute.Start(spec=spec, cluster=cluster, folder=RunFolder.of(spec.root, spec.name))


def _digits_folder(spec: RunSpec) -> Path | None:
    """Where digits must be written first; None: nothing to prepare, or all files are there."""
    pattern, zeroshot = spec.train.data.train_data, spec.train.zeroshot
    ours = Path(pattern).name == DIGITS_SHARDS and (zeroshot is None or Path(zeroshot.data).name == DIGITS_TEST)
    if spec.prepare != "digits" or not ours or len(sources(pattern)) > 1 or not missing_data(spec):
        return None
    return Path(pattern).parent


def refuse_taken(plan: LaunchPlan, names: Collection[str]) -> None:
    name = plan.spec.name
    if name in names:
        free = next(f"{name}-{number}" for number in count(2) if f"{name}-{number}" not in names)
        raise Refused(f"a run named '{name}' exists", hint=f"clipctl resume {name}, or launch with --name {free}")


def launch(plan: LaunchPlan, *, actor: str, store: Store, backend: Backend, clock: Clock) -> execute.Submitted:
    """What `plan.prepare` asks for has been done. Refused: the name was taken in the meantime."""
    if problems := missing_data(plan.spec):
        raise InvalidSpec(problems)
    return execute.begin(plan.start, actor=actor, store=store, backend=backend, clock=clock)


def script(argument: str, *, sets: Sequence[str], name: str | None, cluster: str | None) -> str:
    """What would be submitted, also where neither data nor root are. Run id, nonce and time come with it: zeros here.

    NotFound, InvalidSpec as `plan`.
    """
    spec = resolve(argument, sets=sets, name=name, cluster=cluster, fallback=cluster_here)
    if spec.root is None:
        spec = spec.model_copy(update={"root": ROOT_TO_COME})
    identity = JobIdentity(run=spec.name, run_id="00000000", attempt=1, nonce="0" * 16, submitted_at=0.0)
    return execute.script_of(_start(spec, load_cluster(spec.cluster)), identity)
