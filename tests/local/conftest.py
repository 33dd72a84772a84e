from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.desk import Desk


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """Its folder's name is one that a careless script would trip over."""
    root = tmp_path / 'it\'s a "run" $HOME; #1'
    root.mkdir()
    monkeypatch.setenv("CLIPCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(root / "modules"))
    monkeypatch.delenv("CLIPCTL_NONCE", raising=False)
    desk = Desk(root)
    yield desk
    desk.close()
