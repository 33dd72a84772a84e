"""From what was typed to a run that is on its way. Everything that can be refused is, before anything is written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from clipctl.domain import JobIdentity
from clipctl.errors import InvalidSpec, Refused
from clipctl.layout import RunFolder
from clipctl.ops import execute
from clipctl.ops.clock import Clock
from clipctl.spec import RunSpec, load_cluster, missing_data, resolve
from trainer.schedule import Geometry, learning_rate

if TYPE_CHECKING:
    from clipctl.backends import Backend
    from clipctl.store.writer import Store

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
        return learning_rate(self.spec.train.optim, 0, self.geometry.steps_per_epoch * self.spec.train.epochs)


def plan(argument: str, *, sets: Sequence[str], name: str | None, cluster: str | None) -> LaunchPlan:
    """NotFound, or InvalidSpec with every mistake: of the spec, or else of what this machine lacks for it."""
    spec = resolve(argument, sets=sets, name=name, cluster=cluster)
    prepare = _digits_folder(spec)
    problems = [] if prepare else list(missing_data(spec))
    if problems := [*problems, *_missing_root(spec)]:
        raise InvalidSpec(tuple(problems))
    return LaunchPlan(start=_start(spec), prepare=prepare)


def _missing_root(spec: RunSpec) -> list[str]:
    return [] if spec.root else ["root: is missing: a folder that all nodes see; for example root=/p/scratch/me"]


def _start(spec: RunSpec) -> execute.Start:
    if spec.root is None:
        raise InvalidSpec(tuple(_missing_root(spec)))
    return execute.Start(spec=spec, cluster=load_cluster(spec.cluster), folder=RunFolder.of(spec.root, spec.name))


def _digits_folder(spec: RunSpec) -> Path | None:
    """Where digits must be written first; None: nothing to prepare, or all files are there."""
    pattern, zeroshot = spec.train.data.train_data, spec.train.zeroshot
    ours = Path(pattern).name == DIGITS_SHARDS and (zeroshot is None or Path(zeroshot.data).name == DIGITS_TEST)
    if spec.prepare != "digits" or not ours or not missing_data(spec):
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
    """What would be submitted, also where the data is not. Run id, nonce and time exist only once it is: zeros here.

    NotFound, InvalidSpec as `plan`.
    """
    spec = resolve(argument, sets=sets, name=name, cluster=cluster)
    identity = JobIdentity(run=spec.name, run_id="00000000", attempt=1, nonce="0" * 16, submitted_at=0.0)
    return execute.script_of(_start(spec), identity)
