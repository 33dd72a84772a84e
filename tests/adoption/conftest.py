from __future__ import annotations

from pathlib import Path

import pytest

from tests.adoption.experiment import Experiment
from tests.cli.conftest import clipctl as clipctl, process as process
from tests.trainer.conftest import digits as digits


@pytest.fixture
def theirs(tmp_path: Path) -> Experiment:
    return Experiment(tmp_path / "logs/theirs")
