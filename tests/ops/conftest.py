from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from clipctl.store import open_store
from tests.ops.theatre import Stage, demo


@pytest.fixture
def stage(home: Path) -> Iterator[Callable[..., Stage]]:
    """`stage()` or `stage(spec)`: a run that is not launched yet."""
    with ExitStack() as closing:
        store = closing.enter_context(open_store(home))
        yield lambda spec=None: Stage(store, spec or demo())
