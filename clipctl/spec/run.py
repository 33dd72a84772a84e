"""RunSpec: the typed description of a run, resolved. Unknown keys are refused, nothing can be changed in place."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from clipctl.domain import RecoverySpec
from clipctl.spec.model import Frozen
from clipctl.spec.patch import Tree, nested
from clipctl.spec.patterns import NAME
from clipctl.spec.slurm import SbatchOptions
from trainer.contract import Count, Precision, TrainSpec


class Resources(Frozen):
    nodes: Count = 1
    ranks_per_node: Count  # "auto" in files: the GPUs of a node, or min(2, cores) of this machine


class RunSpec(Frozen):
    """All paths absolute, all values resolved. `precisions` maps a precision to dotted paths below `train`."""

    name: Annotated[str, Field(pattern=NAME)]
    cluster: Annotated[str, Field(min_length=1)]
    root: Path | None = None  # run folders go below it; where not given the cluster's, or $CLIPCTL_HOME on this machine
    prepare: Literal["digits"] | None = None  # data made on this machine before the launch, where its files are missing
    resources: Resources
    slurm: SbatchOptions = SbatchOptions()  # the cluster's and, before them, the run's own
    train: TrainSpec
    precisions: Mapping[Precision, Mapping[str, Any]] = {}
    recovery: RecoverySpec = RecoverySpec()

    @property
    def ranks(self) -> int:
        return self.resources.nodes * self.resources.ranks_per_node


def tree_of(spec: RunSpec) -> Tree:
    """The spec as plain JSON types, every key on its own level."""
    return nested(spec.model_dump(mode="json"))


def keys(kind: Any = RunSpec, prefix: str = "") -> Iterator[str]:
    """Every dotted path that a spec may have: sections and values."""
    for name, hint in _hints(kind).items():
        path = f"{prefix}{name}"
        yield path
        if (section := _section(hint)) is not None:
            yield from keys(section, f"{path}.")


def _hints(kind: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    else:
        names = list(kind.model_fields)
    hints = typing.get_type_hints(kind)
    return {name: hints[name] for name in names}


def _section(hint: Any) -> Any | None:
    """The model or dataclass behind `X` or `X | None`."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(item for item in typing.get_args(hint) if item is not types.NoneType)
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or issubclass(hint, BaseModel)):
        return hint
    return None
