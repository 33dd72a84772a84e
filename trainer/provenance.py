"""What ran: recorded by every attempt, compared by `clipctl resume`. Standard library only."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlparse

DISTRIBUTION = "clipctl"
PACKAGES = ("torch", "torchvision", "open_clip_torch", "webdataset", "timm", "numpy", "pillow", "submitit", "pydantic")
GIT_SECONDS = 10


def versions() -> dict[str, str]:
    """Of clipctl, Python and the libraries that can change a loss; with commit and diff where clipctl is editable."""
    found = {"python": platform.python_version(), DISTRIBUTION: importlib.metadata.version(DISTRIBUTION)}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    source = editable_source()
    return found | (_source_state(source) if source else {})


def editable_source() -> Path | None:
    """The folder of an editable install (PEP 610); None for a wheel, whose version says it all."""
    text = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    record = json.loads(text) if text else {}
    if not record.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlparse(record["url"]).path))


def _source_state(source: Path) -> dict[str, str]:
    state = {}
    lock = source / "requirements.lock"
    if lock.exists():
        state["lock"] = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    commit = _git(source, "rev-parse", "HEAD")
    if commit:
        state["commit"] = commit.strip()[:12]
        diff = _git(source, "diff", "HEAD", "--", "clipctl", "trainer")
        state["diff"] = hashlib.sha256(diff.encode()).hexdigest()[:12] if diff else "clean"
    return state


def _git(source: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(source), *arguments], capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
