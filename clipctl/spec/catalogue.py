"""Files that build on each other by `extends`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from clipctl.errors import InvalidSpec
from clipctl.spec.patch import Place, Tree, changed, leaf_places
from clipctl.spec.words import shown
from clipctl.spec.yaml import Document, read_document

EXTENDS = "extends"


def read_stack(path: Path, find: Callable[[str, Path], Path]) -> tuple[Document, ...]:
    """The file and all that it extends, the base first. `find(text, file)`: which file `extends: text` means there."""
    stack: list[Document] = []
    seen: list[Path] = []
    while True:
        if (real := path.resolve()) in seen:
            circle = " -> ".join(str(file) for file in [*seen, real])
            raise InvalidSpec((f"{path}: extends itself: {circle}",))
        seen.append(real)
        document = read_document(path)
        _refuse_repetition(document)
        base = document.tree.pop(EXTENDS, None)
        stack.append(document)
        if base is None:
            return tuple(reversed(stack))
        if not isinstance(base, str):
            where = document.origins()[(EXTENDS,)]
            raise InvalidSpec((f"{where}: extends: must be one name or path, such as extends: demo",))
        path = find(base, path)


def stacked(stack: Sequence[Document]) -> tuple[Tree, dict[Place, str]]:
    """All files of a stack as one tree, and where each value stands."""
    tree: Tree = {}
    origins: dict[Place, str] = {}
    for document in stack:
        tree = changed(tree, document.tree)
        origins |= document.origins()
    return tree, origins


def origin_of(path: str, origins: Mapping[Place, str]) -> str:
    """Of the value, or else of the nearest section around it."""
    place = tuple(path.split("."))
    return next((origins[place[:n]] for n in range(len(place), -1, -1) if place[:n] in origins), "")


def _refuse_repetition(document: Document) -> None:
    """`train.epochs: 1` next to `train: {epochs: 2}`: neither is meant more than the other."""
    twice = [place for place, count in Counter(leaf_places(document.tree)).items() if count > 1]
    if twice:
        origins = document.origins()
        paths = (".".join(place) for place in twice)
        raise InvalidSpec(tuple(f"{origin_of(path, origins)}: {shown(path)} is given twice" for path in paths))
