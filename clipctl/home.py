"""Where clipctl keeps what is the user's own."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$CLIPCTL_HOME`, absolute; `~/.clipctl` where it is not set."""
    return Path(os.environ.get("CLIPCTL_HOME") or "~/.clipctl").expanduser().absolute()


def config() -> Path:
    """`$XDG_CONFIG_HOME/clipctl`, absolute; `~/.config/clipctl` where it is not set."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser().absolute() / "clipctl"
