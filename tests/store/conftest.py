from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clipctl.store import open_store
from clipctl.store.writer import Store


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    with open_store(home) as opened:
        yield opened
