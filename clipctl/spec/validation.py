"""From a tree of texts to a RunSpec, or to every mistake at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from clipctl.errors import InvalidSpec
from clipctl.spec.catalogue import origin_of
from clipctl.spec.checks import rules
from clipctl.spec.cluster import Cluster
from clipctl.spec.patch import PRECISION, PRECISIONS, Place, Tree, changed, cut, flat, profile
from clipctl.spec.run import RunSpec, keys, tree_of
from clipctl.spec.words import Problem, control_problems, explained, path_of
from trainer.contract import Precision, TrainSpec

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_RUN = TypeAdapter(RunSpec)
_TRAIN = TypeAdapter(TrainSpec)
_KNOWN = tuple(keys())

# Stand-ins for what is missing or wrong, so that the rules about the rest can still be looked at.
_STAND_INS: dict[str, Any] = {
    "name": "name",
    "cluster": "local",
    "resources.ranks_per_node": 1,
    "train.model": "model",
    "train.data.train_data": "/data.tar",
    "train.data.train_num_samples": 1,
    "train.epochs": 1,
    "train.batch_size": 1,
}


def validated(
    tree: Tree,
    origins: Mapping[Place, str] | None = None,
    *,
    cluster: Cluster | None = None,
    found: Iterable[Problem] = (),
) -> RunSpec:
    """The tree as a RunSpec.

    `origins` say where each value stands ("my.yaml:7"); `found` are problems known already. InvalidSpec: one line each.
    """
    spec, problems = _examined(tree, cluster)
    problems = [*found, *problems]
    if problems or spec is None:
        lines = (problem.line(origin_of(problem.path, origins or {})) for problem in problems)
        raise InvalidSpec(tuple(dict.fromkeys(lines)))
    return spec.model_copy(update={"precisions": _typed_profiles(spec)})


def _examined(tree: Tree, cluster: Cluster | None) -> tuple[RunSpec | None, list[Problem]]:
    """The spec, and all that is wrong with it; rules that rest on wrong values wait for the next try."""
    profiles = _profile_problems(tree)
    controls = list(control_problems(tree))
    tree = tree | {PRECISIONS: _dotted_profiles(tree.get(PRECISIONS))}
    errors = _errors(_RUN, tree)
    bad = {path_of(error) for error in errors}
    problems = [problem for problem in controls if problem.path not in bad]
    problems += [*profiles, *(explained(error, _KNOWN) for error in errors)]
    sound = _mended(tree, bad) if bad else tree
    if bad and _errors(_RUN, sound):
        return None, problems
    spec = RunSpec.model_validate(sound)
    return spec, problems + [problem for problem in rules(spec, cluster) if not _rests_on(problem, bad)]


def _errors(adapter: TypeAdapter[Any], tree: Any) -> list[ErrorDetails]:
    try:
        adapter.validate_python(tree)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


# --- precision profiles -----------------------------------------------------------------------------


def _profile_problems(tree: Tree) -> list[Problem]:
    """Each profile is tried as the change of `train` that it is."""
    problems = []
    for precision in Precision:
        places = profile(tree, precision)
        if PRECISION in places:
            path = f"{PRECISIONS}.{precision}.precision"
            problems.append(Problem(path, ": a profile cannot change the precision that it belongs to"))
        train = changed(tree, {".".join(PRECISION): precision}).get("train") if places else None
        for error in _errors(_TRAIN, train) if places else ():
            error["loc"] = ("train", *error["loc"])
            if any(error["loc"][: len(place)] == place for place in places):
                problem, section = explained(error, _KNOWN), f"{PRECISIONS}.{precision}."
                path = section + problem.path.removeprefix("train.")
                problems.append(Problem(path, problem.rule.replace(" train.", f" {section}")))
    return problems


def _dotted_profiles(raw: Any) -> Any:
    if not isinstance(raw, dict):
        return raw or {}
    return {precision: flat(value) if isinstance(value, dict) else value for precision, value in raw.items()}


def _typed_profiles(spec: RunSpec) -> dict[Precision, dict[str, Any]]:
    """The profiles with the types of the fields that they set: 224, not "224"."""
    tree = tree_of(spec)
    typed = {}
    for precision, settings in spec.precisions.items():
        train = changed(tree, {".".join(PRECISION): precision})["train"]
        values = flat(_TRAIN.dump_python(_TRAIN.validate_python(train), mode="json"))
        typed[precision] = {path: values.get(path, value) for path, value in settings.items()}
    return typed


# --- all at once ------------------------------------------------------------------------------------


def _mended(tree: Tree, bad: Iterable[str]) -> Tree:
    """Without the wrong values, and with stand-ins for the ones that must be there."""
    tree = deepcopy(tree)
    for path in bad:
        cut(tree, _removable(path))
    present = flat(tree)
    return changed(tree, {path: value for path, value in _STAND_INS.items() if path not in present})


def _removable(path: str) -> str:
    """What can be left out as a whole around a wrong value: the list that it is in, or the optional section."""
    if path.startswith("train.zeroshot."):
        return "train.zeroshot"
    return re.split(r"\.\d+(?:\.|$)", path)[0]


def _rests_on(problem: Problem, bad: Iterable[str]) -> bool:
    used = (problem.path, *problem.concerns)
    return any(f"{one}.".startswith(f"{two}.") or f"{two}.".startswith(f"{one}.") for one in used for two in bad)
