"""Patches: dotted paths to values, the one way to change a spec. Here on plain trees of dicts, lists and scalars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from trainer.contract import Precision

Patch = Mapping[str, Any]  # {"train.optim.lr": 5e-4}; values may be maps, which merge; lists and {} replace
Place = tuple[str, ...]
Tree = dict[str, Any]

PRECISION: Place = ("train", "precision")
PRECISIONS = "precisions"


def leaves(patch: Patch) -> dict[Place, Any]:
    """Every value of a patch or a tree by its place: {"train": {"optim.lr": 1}} has one at ("train", "optim", "lr")."""
    return {place: value for place, value in _leaves(patch, ()) if place}


def leaf_places(tree: Mapping[str, Any]) -> list[Place]:
    """One for each time that a value is given, so that twice can be told."""
    return [place for place, _ in _leaves(tree, ())]


def nested(tree: Mapping[str, Any]) -> Tree:
    """The same values with every dotted key taken apart."""
    result: Tree = {}
    _put_all(result, leaves(tree))
    return result


def _leaves(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, (*place, *str(key).split(".")))
    else:
        yield _canonical(place), value


def _canonical(place: Place) -> Place:
    """`precisions.amp.batch_size` is `precisions.amp_fp16.batch_size`, as open_clip's `amp` is `amp_fp16`."""
    if len(place) > 1 and place[0] == PRECISIONS:
        return (place[0], str(_precision(place[1]) or place[1]), *place[2:])
    return place


def changed(tree: Tree, patch: Patch) -> Tree:
    """`tree` with `patch`. A precision brings its profile along, first; what the patch says itself wins."""
    values = leaves(patch)
    result = deepcopy(tree)
    _put_all(result, {place: value for place, value in values.items() if place[0] == PRECISIONS})
    if PRECISION in values:
        _put_all(result, profile(result, values[PRECISION]))
    _put_all(result, values)
    return result


def profile(tree: Tree, precision: object) -> dict[Place, Any]:
    """The settings that go with a precision, at their places; none where the tree has no such profile."""
    profiles = tree.get(PRECISIONS)
    chosen = profiles.get(str(_precision(precision))) if isinstance(profiles, dict) else None
    return {("train", *place): value for place, value in leaves(chosen or {}).items()}


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted paths to leaves."""
    return {".".join(place): value for place, value in leaves(tree).items()}


def cut(tree: Any, path: str) -> None:
    """Removes what is at a dotted path, where there is something; numbers lead into lists."""
    head, dot, rest = path.partition(".")
    if isinstance(tree, list):
        cut(tree[int(head)], rest)
    elif isinstance(tree, dict) and dot:
        cut(tree.get(head), rest)
    elif isinstance(tree, dict):
        tree.pop(head, None)


def _put_all(tree: Tree, values: Mapping[Place, Any]) -> None:
    for place, value in values.items():
        _put(tree, place, deepcopy(value))


def _put(tree: Tree, place: Place, value: Any) -> None:
    for key in place[:-1]:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[place[-1]] = value


def _precision(word: object) -> Precision | None:
    try:
        return Precision(str(word))
    except ValueError:
        return None
