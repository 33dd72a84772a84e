"""Model configurations, in open_clip's own format: its own, and those that it does not ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def register_models() -> None:
    """Makes every `<name>.json` of this folder known to open_clip under its file name."""
    import open_clip  # nine seconds: only where a model is built

    open_clip.add_model_config(Path(__file__).parent)


def is_place(model: str) -> bool:
    """To look in for a model of no name: local-dir:/DIR."""
    return ":" in model


def configuration_of(model: str) -> dict[str, Any] | None:
    """None: it has no name that open_clip knows. A place is not looked into."""
    import open_clip

    return None if is_place(model) else open_clip.get_model_config(model.replace("/", "-"))
