"""YAML 1.2 whose scalars keep the text that was typed: `no`, `010`, `5e-4` and `24:00:00` are typed by their fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scanner import Scanner

from clipctl.errors import InvalidSpec, NotFound

MAX_BYTES = 256 * 1024  # the largest spec anybody wrote by hand has a few thousand
MAX_DEPTH = 16
NULLS = frozenset({"", "~", "null", "Null", "NULL"})

Place = tuple[str, ...]  # ("train", "optim", "lr")


@dataclass(frozen=True)
class Document:
    """What a file says, and on which line it says it."""

    source: str
    tree: dict[str, Any]
    lines: Mapping[Place, int]

    def origins(self) -> dict[Place, str]:
        return {place: f"{self.source}:{line}" for place, line in self.lines.items()}


def read_document(path: Path) -> Document:
    """A file whose top level is a map. InvalidSpec names file and line, NotFound the path."""
    text = _text_of(path)
    builder = _Builder(str(path))
    tree = builder.build(text)
    if not isinstance(tree, dict):
        raise InvalidSpec((f"{path}: must be a map of keys and values, such as `extends: demo`",))
    return Document(str(path), tree, builder.lines)


def parse_value(text: str, source: str) -> Any:
    """What `--set key=text` means: lists and maps as in a file, everything else the raw text (or None for null)."""
    if text.strip() in NULLS:
        return None
    if text[:1] + text[-1:] in ("[]", "{}"):
        return _Builder(source, numbered=False).build(text)
    return text


def _text_of(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file", "clipctl presets lists what can be launched by name") from None
    except OSError as error:
        raise InvalidSpec((f"{path}: cannot be read: {error.strerror}",)) from None
    if len(raw) > MAX_BYTES:
        raise InvalidSpec((f"{path}: is larger than {MAX_BYTES // 1024} KiB: this is no spec",))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InvalidSpec((f"{path}:{line}: is not UTF-8 text; save the file as UTF-8",)) from None


class _BraceScanner(Scanner):
    """Reads a value that begins with a shell pattern, {000..011}.tar, as text: YAML has no other meaning for it."""

    _pattern = re.compile(r"\{[^\s{}:]*(?:\.\.[^\s{}:]*\}\S*|\}[^\s,\]}#:]\S*)")

    def fetch_flow_mapping_start(self) -> None:
        if not self.flow_level and self._pattern.match(self._rest_of_line()):
            self.fetch_plain()
        else:
            super().fetch_flow_mapping_start()

    def _rest_of_line(self) -> str:
        length = 0
        while self.reader.peek(length) not in "\0\r\n\x85\u2028\u2029":
            length += 1
        return str(self.reader.prefix(length))


class _Builder:
    """Plain dicts, lists, texts and None from a stream of YAML events; refuses what a spec has no use for."""

    def __init__(self, source: str, *, numbered: bool = True) -> None:
        self.source = source
        self.numbered = numbered
        self.lines: dict[Place, int] = {}

    def build(self, text: str) -> Any:
        yaml = YAML(typ="base", pure=True)
        yaml.Scanner = _BraceScanner
        try:
            events = (event for event in yaml.parse(text) if isinstance(event, Event))
            nodes = (event for event in events if isinstance(event, (NodeEvent, MappingEndEvent, SequenceEndEvent)))
            first = next(nodes, None)
            tree = {} if first is None else self._node(first, nodes, ())
            if (extra := next(nodes, None)) is not None:
                raise self._refusal(extra, "a second document begins here; a file holds one")
            return tree
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            quotes = "text with one of [ ] { } : # * & ! @ % may need quotes"
            rule = f"is not YAML: {error.problem or error.context}; {quotes}"
            raise self._error(mark.line + 1 if mark else 1, rule) from None
        except ReaderError as error:
            line = text[: error.position].count("\n") + 1
            raise self._error(line, f"holds the control character U+{error.character:04X}; take it out") from None

    def _node(self, event: Event, events: Iterator[Event], place: Place) -> Any:
        self.lines[place] = event.start_mark.line + 1
        if isinstance(event, AliasEvent):
            raise self._refusal(event, f"*{event.anchor} refers to another value; write the value out")
        if tag := getattr(event, "tag", None):
            raise self._refusal(event, f"the tag {tag} is not used here; leave it out")
        if len(place) > MAX_DEPTH:
            raise self._refusal(event, f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, MappingStartEvent):
            return self._mapping(events, place)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(events, place)
        assert isinstance(event, ScalarEvent)  # the fourth and last kind of node
        return None if event.implicit[0] and event.value in NULLS else event.value

    def _sequence(self, events: Iterator[Event], place: Place) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            items.append(self._node(event, events, (*place, str(len(items)))))
        return items

    def _mapping(self, events: Iterator[Event], place: Place) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            if not isinstance(event, ScalarEvent) or getattr(event, "tag", None):
                raise self._refusal(event, "a key must be plain text")
            if event.value in tree:
                raise self._refusal(event, f"{event.value!r:.80} is given twice")
            tree[event.value] = self._node(next(events), events, (*place, *event.value.split(".")))
        return tree

    def _refusal(self, event: Event, rule: str) -> InvalidSpec:
        return self._error(event.start_mark.line + 1, rule)

    def _error(self, line: int, rule: str) -> InvalidSpec:
        return InvalidSpec((f"{self.source}{f':{line}' if self.numbered else ''}: {' '.join(rule.split())}",))
