"""Reads the #SBATCH lines of a job script back, as sbatch does. Pure."""

from __future__ import annotations

import shlex

PREFIX = "#SBATCH"


def parse_directives(script: str) -> dict[str, str]:
    """Long options to their texts; a flag's is empty. ValueError: a line that is not of our templates' form.

    Like sbatch it stops at the first command: what stands below one is not obeyed.
    """
    found: dict[str, str] = {}
    for line in script.split("\n"):
        if line and not line.startswith("#"):
            break
        if line.startswith(PREFIX):
            option, text = _option(line)
            if option in found:
                raise ValueError(f"--{option} is given twice")
            found[option] = text
    return found


def _option(line: str) -> tuple[str, str]:
    words = shlex.split(line.removeprefix(PREFIX))
    if len(words) != 1 or not words[0].startswith("--"):
        raise ValueError(f"not one long option: {line!r:.200}")
    option, _, text = words[0].removeprefix("--").partition("=")
    return option, text
