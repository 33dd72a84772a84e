"""What a user wants where neither the command line nor the spec says so: ~/.config/clipctl/config.yaml."""

from __future__ import annotations

from clipctl.errors import InvalidSpec
from clipctl.home import config
from clipctl.spec.words import unknown_key
from clipctl.spec.yaml import read_document

KEYS = ("cluster",)


def default_cluster() -> str | None:
    """`cluster: NAME` of the file; None where there is no such file or key. InvalidSpec: what it cannot hold."""
    path = config() / "config.yaml"
    if not path.is_file():
        return None
    document = read_document(path)
    if wrong := [unknown_key(key, KEYS) for key in document.tree if key not in KEYS]:
        raise InvalidSpec(tuple(problem.line(str(path)) for problem in wrong))
    name = document.tree.get("cluster")
    return None if name is None else str(name)
