"""README.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import readme_parts

TEXT = readme_parts.README.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["exit-status", "exit-code", "cli"])
def test_what_comes_from_the_code_is_up_to_date(name: str) -> None:
    """Else: `make docs`."""
    between = TEXT.partition(f"<!-- {name}: written by `make docs` -->\n")[2].partition(f"\n<!-- end of {name} -->")[0]
    assert between == readme_parts.parts()[name]


def test_every_command_it_types_exists() -> None:
    exist = set(re.findall(r"^### clipctl (\w+)", readme_parts.cli(), re.MULTILINE))
    blocks = re.findall(r"^```.*?\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    typed = {name for block in blocks for name in re.findall(r"^(?:\$ )?clipctl ([a-z]+)", block, re.MULTILINE)}
    assert typed and typed <= exist


def test_every_make_target_it_types_exists() -> None:
    makefile = Path(readme_parts.README.with_name("Makefile")).read_text()
    typed = set(re.findall(r"\bmake ([a-z]+)\b`", TEXT)) | set(re.findall(r"^make ([a-z]+)", TEXT, re.MULTILINE))
    assert typed and typed <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


def test_links_inside_it_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", TEXT, re.M)
    }
    assert {link for link in re.findall(r"\]\(#([^)]+)\)", TEXT) if link not in anchors} == set()
