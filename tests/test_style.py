"""What a reader may rely on: sizes, names, and that the modules which both sides share need nothing but Python."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("clipctl", "trainer") for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MODULE_LINES = 400
FUNCTION_LINES = 60
MEDIAN_FUNCTION_LINES = 12
FORBIDDEN_WORDS = {"utils", "util", "helpers", "misc", "common", "manager", "controller"}
SHARED = (
    "contract",
    "schedule",
    "verify",
    "claim",
    "predecessor",
    "spawn",
    "open_clip_log",
    "evaluation",
)  # imported on a login node, or by the job script
DOCUMENTED = (
    "trainer/contract.py",
    "trainer/schedule.py",
    "trainer/verify.py",
    "trainer/open_clip_log.py",
    "clipctl/layout.py",
    "clipctl/domain/facts.py",
    "clipctl/domain/decisions.py",
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(paths: list[Path]) -> Iterator[tuple[str, int]]:
    """Place and number of lines of each function, decorators and docstring included."""
    for path in paths:
        for node in ast.walk(tree(path)):
            if isinstance(node, Function):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                yield f"{path.relative_to(ROOT)}:{first} {node.name}", (node.end_lineno or first) - first + 1


def test_no_module_is_too_long_to_read() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES + TESTS}
    assert {name: size for name, size in sizes.items() if size > MODULE_LINES} == {}


def test_functions_are_short() -> None:
    sizes = dict(functions(SOURCES + TESTS))
    assert {place: size for place, size in sizes.items() if size > FUNCTION_LINES} == {}
    ours = sorted(size for _, size in functions(SOURCES))
    assert ours[len(ours) // 2] <= MEDIAN_FUNCTION_LINES


def test_modules_are_named_by_what_they_hold() -> None:
    names = {str(path.relative_to(ROOT)) for path in SOURCES if FORBIDDEN_WORDS & {*path.parts, *path.stem.split("_")}}
    assert names == set()


def test_the_trainer_package_does_nothing_when_imported() -> None:
    assert (ROOT / "trainer" / "__init__.py").read_bytes() == b""


def test_shared_modules_need_nothing_but_python() -> None:
    imports = "; ".join(f"import trainer.{name}" for name in SHARED)
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(ROOT)!r}); {imports}"]
    subprocess.run(command, check=True)


@pytest.mark.parametrize("file", DOCUMENTED)
def test_what_is_public_is_documented(file: str) -> None:
    """Functions of the modules that everything hangs on; enums and plain records may speak for themselves."""
    module = tree(ROOT / file)
    assert ast.get_docstring(module)
    public = [node for node in module.body if isinstance(node, Function) and not node.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


IMPORTS = """
import sys
{statement}
heavy = {{"sqlmodel", "sqlalchemy", "pydantic", "submitit", "torch", "numpy", "fabric", "jinja2", "ruamel"}}
print(*sorted(heavy & {{name.partition(".")[0] for name in sys.modules}}))
"""


@pytest.mark.parametrize(
    "statement", ["import clipctl.cli", "import clipctl.ops.read", "import clipctl.backends.slurm"]
)
def test_help_and_status_wait_for_nothing_heavy(statement: str) -> None:
    command = [sys.executable, "-c", IMPORTS.format(statement=statement)]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split() == []
