"""A checkpoint of another network: what of it fits this one, and in words what does not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Size, Tensor

from trainer.clip import PREFIX, ClipTrainee, is_undecayed, weights_of
from trainer.unusable import Unusable

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # batch norm's: in a state, but no parameters


@dataclass(frozen=True)
class Fit:
    """Names of tensors, in their order."""

    kept: tuple[str, ...]
    new: tuple[str, ...]  # of this network, not there or of another shape there
    unused: tuple[str, ...]  # of the checkpoint

    @classmethod
    def of(cls, saved: Mapping[str, Size], ours: Mapping[str, Size]) -> Fit:
        kept = tuple(name for name, size in ours.items() if saved.get(name) == size)
        rest = (tuple(name for name in names if name not in set(kept)) for names in (ours, saved))
        return cls(kept, *rest)

    def __str__(self) -> str:
        parts = (("new, left at their first values", self.new), ("unused", self.unused))
        return f"kept {len(self.kept)} tensors; " + "; ".join(f"{what}: {_listed(names)}" for what, names in parts)


def _listed(names: Collection[str]) -> str:
    """The same tensor of all blocks once, with how many there are."""
    counts = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in names)
    return ", ".join(name + (f" x {count}" if count > 1 else "") for name, count in counts.items()) or "none"


def fitted(state: Mapping[str, Any], trainee: ClipTrainee) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The part of `state` that `trainee` can load, and notices. Moments of new parameters start at zero."""
    saved = weights_of(state)
    fit = Fit.of({name: tensor.shape for name, tensor in saved.items()}, trainee.sizes())
    if not fit.kept:
        raise Unusable("no tensor of the checkpoint to start from fits this network")
    part = {**state, "state_dict": {PREFIX + name: saved[name] for name in fit.kept}}
    notices: tuple[str, ...] = (str(fit),)
    if "optimizer" in state:
        moments = _moments(state["optimizer"], saved, set(fit.kept), trainee.places())
        if moments is None:
            notices += ("the optimizer's moments start at zero: the checkpoint's groups are not open_clip's",)
            del part["optimizer"]
        else:
            part["optimizer"] = moments
    return part, notices


def _moments(
    optimizer: Mapping[str, Any], saved: Mapping[str, Tensor], kept: Collection[str], ours: Sequence[Sequence[str]]
) -> dict[str, Any] | None:
    """State that is keyed by place, from the places of one network to those of another; `ours`: names by group."""
    parameters = {name: tensor for name, tensor in saved.items() if not name.endswith(BUFFERS)}
    without = [name for name, tensor in parameters.items() if is_undecayed(name, tensor)]
    theirs = (without, [name for name in parameters if name not in set(without)])
    groups = optimizer["param_groups"]
    if [len(group["params"]) for group in groups] != [len(names) for names in theirs]:
        return None
    found = {name: optimizer["state"].get(place) for place, name in enumerate([*theirs[0], *theirs[1]])}
    numbered = [*enumerate(name for names in ours for name in names)]
    state = {place: found[name] for place, name in numbered if name in kept and found.get(name) is not None}
    places = iter(range(len(numbered)))
    own = [{**group, "params": [next(places) for _ in names]} for group, names in zip(groups, ours, strict=True)]
    return {"state": state, "param_groups": own}
