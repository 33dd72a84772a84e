"""Model configurations that open_clip does not ship, in its own format."""

from __future__ import annotations

from pathlib import Path


def register_models() -> None:
    """Makes every `<name>.json` of this folder known to open_clip under its file name."""
    import open_clip  # nine seconds: only where a model is built

    open_clip.add_model_config(Path(__file__).parent)
