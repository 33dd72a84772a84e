from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

SOAK = os.environ.get("CLIPCTL_SOAK") == "1"
# The same examples every time, and no file left behind; `make soak` looks further.
settings.register_profile(
    "spec", deadline=None, derandomize=not SOAK, database=None, max_examples=3000 if SOAK else 100
)
settings.load_profile("spec")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of the user who runs the tests is read."""
    monkeypatch.setenv("CLIPCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "home"


@pytest.fixture
def spec_file(tmp_path: Path) -> Callable[..., str]:
    """Writes a file that can be given to `resolve`."""

    def write(text: str | bytes, name: str = "my.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write
