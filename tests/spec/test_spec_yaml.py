"""What is typed is what is meant, in files and with --set alike; what cannot be meant is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from clipctl.errors import ClipctlError, InvalidSpec, NotFound
from clipctl.spec import RunSpec, load_cluster, resolve
from clipctl.spec.yaml import parse_value, read_document

MEANT = [
    ("train.optim.lr", "5e-4", 5e-4),  # YAML 1.1 reads text
    ("train.model", "5e-4", "5e-4"),
    ("train.model", "24:00:00", "24:00:00"),  # YAML 1.1 reads 86400
    ("train.model", "no", "no"),  # YAML 1.1 reads False
    ("train.tf32", "no", False),
    ("train.model", "010", "010"),  # YAML 1.1 reads 8
    ("train.seed", "010", 10),
    ("train.model", "{000..011}.tar", "{000..011}.tar"),  # YAML reads a map with something behind it
    ("train.model", "{000..011}", "{000..011}"),  # YAML reads a map of one key
    ("train.model", "{a,b}.tar", "{a,b}.tar"),
    ("train.data.train_data", "/data/{000..011}.tar", "/data/{000..011}.tar"),
    ("train.model", "1_000", "1_000"),
    ("train.data.train_num_samples", "200_000_000", 200_000_000),
    ("train.model", "2026-01-01", "2026-01-01"),
    ("train.save.minutes", "null", None),
    ("train.save.minutes", "~", None),
    ("train.save.minutes", "", None),
    ("train.zeroshot", "null", None),
]


def value_of(spec: RunSpec, key: str) -> Any:
    value: Any = spec
    for name in key.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize(("key", "text", "meant"), MEANT)
def test_in_a_file_a_scalar_means_what_was_typed(
    key: str, text: str, meant: Any, spec_file: Callable[..., str]
) -> None:
    spec = resolve(spec_file(f"extends: demo\n{key}: {text}\n"))
    assert value_of(spec, key) == meant
    assert type(value_of(spec, key)) is type(meant)


@pytest.mark.parametrize(("key", "text", "meant"), MEANT)
def test_with_set_a_scalar_means_what_was_typed(key: str, text: str, meant: Any) -> None:
    spec = resolve("demo", sets=[f"{key}={text}"])
    assert value_of(spec, key) == meant
    assert type(value_of(spec, key)) is type(meant)


def test_a_wall_time_in_a_profile_is_not_a_number_of_seconds(tmp_path: Path) -> None:
    folder = tmp_path / "config/clipctl/clusters"
    folder.mkdir(parents=True)
    text = "scheduler: slurm\nslurm.time: 24:00:00\nenv: {DEBUG: no, RANK_FORMAT: 010}\n"
    (folder / "mine.yaml").write_text(text)
    cluster = load_cluster("mine")
    assert cluster.slurm.time == "24:00:00"
    assert cluster.env == {"DEBUG": "no", "RANK_FORMAT": "010"}


def test_lists_and_maps_are_read_in_set_as_in_a_file(spec_file: Callable[..., str]) -> None:
    faults = "[{kind: overflow, at_epoch: 2, at_step: 10}]"
    typed = resolve("demo", sets=[f"train.faults={faults}"])
    assert typed.train.faults[0].kind == "overflow"
    assert typed.train.faults[0].at_step == 10
    assert resolve(spec_file(f"extends: demo\ntrain.faults: {faults}")).train == typed.train


def test_quotes_make_text_of_a_null(spec_file: Callable[..., str]) -> None:
    assert resolve(spec_file("extends: demo\ntrain: {model: 'null'}")).train.model == "null"


REFUSED = {
    "twice in a map": (b"train:\n  epochs: 1\n  epochs: 2\n", 3, "'epochs' is given twice"),
    "twice in two spellings": (b"train:\n  epochs: 1\ntrain.epochs: 2\n", 3, "train.epochs is given twice"),
    "an alias": (b"a: &x [1]\nb: *x\n", 2, "*x refers to another value; write the value out"),
    "a bomb of aliases": (
        b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
        2,
        "*a refers to another value; write the value out",
    ),
    "a tag": (b"a: !!python/object:os.system x\n", 1, "is not used here; leave it out"),
    "deep lists": (b"a: " + b"[" * 100_000, 1, "is nested deeper than 16 levels"),
    "deep maps": (b"a: " + b"{a: " * 50_000, 1, "is nested deeper than 16 levels"),
    "a deep key": (b"a" + b".a" * 400 + b": 1", 1, "is nested deeper than 16 levels"),
    "a tab": (b"train:\n\tepochs: 1\n", 2, "cannot start any token"),
    "a NUL": (b"a: 1\nb: \0\n", 2, "holds the control character U+0000; take it out"),
    "Latin-1": (b"a: 1\n\nb: caf\xe9\n", 3, "is not UTF-8 text; save the file as UTF-8"),
    "UTF-16": ("a: 1\n".encode("utf-16"), 1, "is not UTF-8 text; save the file as UTF-8"),
    "an open list": (b"a: [1, 2\n", 2, "is not YAML"),
    "a list with a tail": (b"a: [0-9]*.tar\n", 1, "may need quotes"),
    "two documents": (b"a: 1\n---\nb: 2\n", 3, "a second document begins here; a file holds one"),
    "a list as a key": (b"? [a]\n: b\n", 1, "a key must be plain text"),
    "bad indentation": (b"a: 1\n  b: 2\n", 2, "is not YAML"),
    "a list": (b"- a\n", None, "must be a map of keys and values"),
    "a text": (b"hello\n", None, "must be a map of keys and values"),
    "a giant": (b"# padding\n" * 30_000, None, "is larger than 256 KiB"),
}


@pytest.mark.parametrize(("raw", "line", "rule"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_line(
    raw: bytes, line: int | None, rule: str, spec_file: Callable[..., str]
) -> None:
    file = spec_file(raw)
    with pytest.raises(InvalidSpec) as refusal:
        resolve(file)
    (problem,) = refusal.value.problems
    assert problem.startswith(f"{file}:{line}: " if line else f"{file}: ")
    assert rule in problem
    assert "\n" not in problem


def test_a_file_that_is_not_there_and_one_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        resolve(str(tmp_path / "none.yaml"))
    with pytest.raises(InvalidSpec, match="cannot be read: Is a directory"):
        resolve(f"{tmp_path}/")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), max_size=40))
def test_any_text_in_double_quotes_comes_back(text: str) -> None:
    """JSON's strings are YAML 1.2's double-quoted ones."""
    assert parse_value(f"[{json.dumps(text, ensure_ascii=False)}]", "--set x") == [text]


@given(st.binary(max_size=60) | st.text("{}[]:,.-?&*!|>'\"%@#~ \n\tab01", max_size=60).map(str.encode))
def test_no_file_leads_to_a_traceback(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(raw)
    try:
        assert isinstance(read_document(path).tree, dict)
    except ClipctlError as refusal:
        assert "\n" not in refusal.message


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text("{}[]:,. ab01'\"", max_size=60))
def test_no_set_leads_to_a_traceback(text: str) -> None:
    try:
        parse_value(text, "--set x")
    except ClipctlError as refusal:
        assert "\n" not in refusal.message
