"""Problems of a spec in words: where, the value, the rule, and what to type instead."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipctl.spec.patterns import NAME, RULES

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

EXAMPLES = {
    "name": "name=my-run",
    "cluster": "cluster=local",
    "train": "extends: demo",
    "train.model": "train.model=ViT-L-14",
    "train.epochs": "train.epochs=32",
    "train.batch_size": "train.batch_size=208",
    "train.data": "train.data.train_data=/data/{00000..00099}.tar",
    "train.data.train_data": "train.data.train_data=/data/{00000..00099}.tar",
    "train.data.train_num_samples": "train.data.train_num_samples=1000000",
    "train.zeroshot.data": "train.zeroshot.data=/data/imagenet/val",
}
UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


@dataclass(frozen=True)
class Problem:
    """One mistake. `concerns` are the dotted paths whose values it rests on besides its own."""

    path: str
    rule: str
    concerns: tuple[str, ...] = ()

    def line(self, origin: str) -> str:
        return f"{origin}: {self.path}{self.rule}" if origin else f"{self.path}{self.rule}"


def refused(path: str, value: Any, rule: str, concerns: tuple[str, ...] = ()) -> Problem:
    """`train.batch_size=0: must be 1 or more`, in the form of --set."""
    return Problem(path, f"={shown(value)}: {rule}", concerns)


def unknown_key(path: str, known: Collection[str]) -> Problem:
    near = nearest_key(path, known)
    return Problem(path, ": no such key" + (f"; did you mean {near}?" if near else ""))


def shown(value: Any) -> str:
    """On one line, without control characters, at most 80 characters."""
    text = value if isinstance(value, str) and value and " " not in value else json.dumps(value, default=str)
    text = "".join(f"\\u{ord(c):04x}" if is_control(c) else c for c in text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_control(character: str) -> bool:
    """What can break a line, a table or a script: Cc, Unicode's two line separators, bytes that were no UTF-8."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")


def control_problems(value: Any, path: str = "") -> Iterator[Problem]:
    """Every text in a tree, keys too, that holds a control character."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if any(map(is_control, str(key))):
                yield Problem(f"{path}{shown(str(key))}", ": no control characters in a key")
            yield from control_problems(item, f"{path}{key}.")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from control_problems(item, f"{path}{index}.")
    elif isinstance(value, str) and any(map(is_control, value)):
        yield refused(path[:-1], value, "no control characters (newline, tab, escape, ...); take them out")


def nearest(word: str, known: Collection[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, list(known), 1, 0.6)), None)


def nearest_key(path: str, known: Collection[str]) -> str | None:
    """Among its siblings first, then wherever the same last word is, then by the whole path."""
    parent, _, leaf = path.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == parent}
    if (near := nearest(leaf, siblings)) is not None:
        return siblings[near]
    leaves = {key.rpartition(".")[2]: key for key in known}
    if (near := nearest(leaf, leaves)) is not None:
        return leaves[near]
    return nearest(path, known)


def path_of(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"] if part != "[key]")


def explained(error: ErrorDetails, known: Collection[str]) -> Problem:
    """What pydantic found, in our words."""
    path, kind = path_of(error), error["type"]
    if kind in UNKNOWN_KEY:
        return unknown_key(path, known)
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        example = EXAMPLES.get(path)
        return Problem(path, ": is missing" + (f"; for example {example}" if example else ""))
    if error["input"] is None:
        return Problem(path, ": has no value and needs one")
    rule = _RULES.get(kind)
    return refused(path, error["input"], rule(error) if rule else _lower(error["msg"]))


def _choice(error: ErrorDetails) -> str:
    words = re.findall(r"'([^']*)'", str(error["ctx"]["expected"]))
    near = nearest(str(error["input"]), words)
    choice = f"one of {', '.join(words)}" if len(words) > 1 else words[0]
    return f"must be {choice}" + (f"; did you mean {near}?" if near else "")


def _whole_number(error: ErrorDetails) -> str:
    try:
        number = float(error["input"])
        meant = f"; did you mean {int(number)}?" if number == int(number) else ""
    except (ValueError, TypeError, OverflowError):
        meant = ""
    return f"must be a whole number in digits{meant}"


def _form(error: ErrorDetails) -> str:
    pattern = error["ctx"]["pattern"]
    if pattern != NAME:
        return RULES[pattern]
    allowed = re.sub(r"[^A-Za-z0-9._-]+", "-", str(error["input"])).lstrip("._-")[:64]
    return RULES[NAME] + (f"; try {allowed}" if allowed else "")


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _below(error: ErrorDetails) -> str:
    bound = error["ctx"]["lt"]
    return "must be a finite number" if bound == float("inf") else f"must be less than {_number(bound)}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


_RULES: dict[str, Callable[[ErrorDetails], str]] = {
    "greater_than_equal": lambda error: f"must be {_number(error['ctx']['ge'])} or more",
    "greater_than": lambda error: f"must be more than {_number(error['ctx']['gt'])}",
    "less_than": _below,
    "less_than_equal": lambda error: f"must be {_number(error['ctx']['le'])} or less",
    "finite_number": lambda error: "must be a finite number",
    "int_parsing": _whole_number,
    "int_type": _whole_number,
    "int_from_float": _whole_number,
    "float_parsing": lambda error: "must be a number, such as 5e-4",
    "float_type": lambda error: "must be a number, such as 5e-4",
    "bool_parsing": lambda error: "must be true or false",
    "bool_type": lambda error: "must be true or false",
    "string_type": lambda error: "must be text; put it in quotes",
    "string_too_short": lambda error: "must not be empty",
    "string_pattern_mismatch": _form,
    "path_type": lambda error: "must be a path",
    "tuple_type": lambda error: "must be a list, such as [a, b]",
    "dict_type": lambda error: "must be a map, such as {key: value}",
    "mapping_type": lambda error: "must be a map, such as {key: value}",
    "dataclass_type": lambda error: "must be a map, such as {key: value}",
    "model_type": lambda error: "must be a map, such as {key: value}",
    "enum": _choice,
    "literal_error": _choice,
}
