"""Curves for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Charts(Protocol):
    """What the recorder asks of TensorBoard's SummaryWriter."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...
    def close(self) -> None: ...


def tensorboard(folder: Path) -> Charts:
    """Imports torch."""
    from torch.utils.tensorboard import SummaryWriter  # seconds: only where there is something to write

    writer: Charts = SummaryWriter(str(folder))
    return writer
