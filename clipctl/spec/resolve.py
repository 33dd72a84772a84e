"""From what was typed to a RunSpec: preset or file, what it extends, --set, profiles, this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipctl.errors import InvalidSpec, NotFound
from clipctl.home import home
from clipctl.presets import preset_file, preset_names
from clipctl.spec.catalogue import read_stack, stacked
from clipctl.spec.cluster import Cluster, load_cluster
from clipctl.spec.patch import Patch, Place, Tree, changed, flat, leaves
from clipctl.spec.run import RunSpec, tree_of
from clipctl.spec.validation import validated
from clipctl.spec.words import nearest, refused, shown
from clipctl.spec.yaml import MAX_DEPTH, parse_value
from trainer.contract import BETWEEN_SOURCES

AUTO = "auto"
HOME_VARIABLE = "${CLIPCTL_HOME}"
FILE_ENDINGS = (".yaml", ".yml")


def resolve(
    argument: str,
    *,
    sets: Sequence[str] = (),
    name: str | None = None,
    cluster: str | None = None,
    fallback: Callable[[], str | None] = lambda: None,
) -> RunSpec:
    """The spec that `launch ARGUMENT --set ... --name ... --cluster ...` means. `fallback`: a cluster where none says.

    An argument with `/` or a YAML ending is a file, anything else a preset. NotFound, or InvalidSpec: every mistake.
    """
    file = _file_of(argument, Path.cwd())
    stack = read_stack(file, lambda text, extending: _file_of(text, extending.parent))
    tree, origins = stacked(stack)
    if _is_file(argument) and "name" not in stack[-1].tree:
        tree["name"] = file.stem  # not the name of what it extends: that is another run
    patch = patch_of(sets) | {key: value for key, value in (("name", name), ("cluster", cluster)) if value is not None}
    return settled(tree, patch, origins, fallback)


def settled(
    tree: Tree, patch: Patch, origins: Mapping[Place, str], fallback: Callable[[], str | None] = lambda: None
) -> RunSpec:
    """`tree` with what was typed, on a cluster of this machine's. `origins`: where each of its values stands."""
    tree = changed(tree, patch)
    if tree.get("cluster") is None and (found := fallback()) is not None:
        tree["cluster"] = found
    return _settled(tree, _without(origins, leaves(patch)))


def patched(spec: RunSpec, patch: Patch) -> RunSpec:
    """`spec` with a patch of dotted paths; a precision brings its profile along. InvalidSpec with every mistake."""
    return validated(changed(tree_of(spec), patch))


def diff(spec: RunSpec, other: RunSpec) -> dict[str, Any]:
    """The patch that leads from `spec` to `other`."""
    before, after = flat(tree_of(spec)), flat(tree_of(other))
    return {path: value for path, value in after.items() if path not in before or before[path] != value}


def _is_file(argument: str) -> bool:
    return "/" in argument or argument.endswith(FILE_ENDINGS)


def _file_of(argument: str, folder: Path) -> Path:
    if _is_file(argument):
        return folder / argument
    if (file := preset_file(argument)) is not None:
        return file
    near = nearest(argument, preset_names())
    instead = f"did you mean {near}?" if near else f"there are {', '.join(preset_names())}"
    raise NotFound(f"no preset {shown(argument)}; {instead} (a file is given with a / or .yaml)", "clipctl presets")


def patch_of(sets: Iterable[str]) -> dict[str, Any]:
    """The patch that all --set together mean; of two for the same key the last one wins."""
    patch: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or key.count(".") > MAX_DEPTH:
            raise InvalidSpec((f"--set {shown(text)}: must be KEY=VALUE, such as --set train.optim.lr=5e-4",))
        patch[key.strip()] = parse_value(value, f"--set {key.strip()}")
    return patch


def _without(origins: Mapping[Place, str], typed: Iterable[Place]) -> dict[Place, str]:
    """No file and line for what was typed on the command line, nor for what is above or below it there."""
    typed = tuple(typed)
    left = {at: where for at, where in origins.items() if not any(at[: len(place)] == place for place in typed)}
    return {place[:length]: "" for place in typed for length in range(1, len(place) + 1)} | left


def _settled(tree: Tree, origins: dict[Place, str]) -> RunSpec:
    """With the cluster's profile looked up and all that depends on this machine resolved."""
    profile, found = None, []
    if isinstance(name := tree.get("cluster"), str):
        try:
            profile = load_cluster(name)
        except NotFound as error:
            found.append(refused("cluster", name, error.message))
    tree = _with_home(tree)
    resources = tree.setdefault("resources", {})
    if isinstance(resources, dict) and resources.get("ranks_per_node", AUTO) == AUTO:
        resources["ranks_per_node"] = _auto_ranks(profile)
    if profile is not None:
        tree["slurm"] = _slurm(tree.get("slurm"), profile)
    if profile is not None and tree.get("root") is None:
        tree["root"] = profile.root or (home() if profile.scheduler == "local" else None)
    return validated(tree, origins, cluster=profile, found=found)


def _slurm(own: Any, cluster: Cluster) -> Any:
    """The run's options before its cluster's; `null` takes one of those out. Kept with the run: profiles change."""
    return cluster.slurm.given() | own if isinstance(own, dict) else own or cluster.slurm.given()


def _auto_ranks(cluster: Cluster | None) -> int:
    """A rank a GPU; without GPUs two where there are two cores, so that the agreement of ranks is at work."""
    if cluster is not None and cluster.gpus_per_node is not None:
        return cluster.gpus_per_node
    return min(2, len(os.sched_getaffinity(0)))


def _with_home(value: Any) -> Any:
    """`${CLIPCTL_HOME}` at the start of a text, or of a source in it: the one variable that a spec may use."""
    if isinstance(value, dict):
        return {key: _with_home(item) for key, item in value.items()}
    if isinstance(value, str):
        return BETWEEN_SOURCES.join(map(_home_in, value.split(BETWEEN_SOURCES)))
    return value


def _home_in(text: str) -> str:
    if text == HOME_VARIABLE or text.startswith(f"{HOME_VARIABLE}/"):
        return str(home()) + text.removeprefix(HOME_VARIABLE)
    return text
