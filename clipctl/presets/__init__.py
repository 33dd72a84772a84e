"""The presets, cluster profiles and timelines that can be named. Only names and paths: completion needs no pydantic."""

from __future__ import annotations

from pathlib import Path

from clipctl.home import config

_HERE = Path(__file__).parent


def preset_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in _HERE.glob("*.yaml")))


def preset_file(name: str) -> Path | None:
    """None: there is no such preset."""
    return _HERE / f"{name}.yaml" if name in preset_names() else None


def timeline_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (_HERE / "timelines").glob("*.yaml")))


def timeline_file(name: str) -> Path | None:
    """None: there is no such timeline."""
    return _HERE / "timelines" / f"{name}.yaml" if name in timeline_names() else None


def cluster_names() -> tuple[str, ...]:
    return tuple(sorted({path.stem for folder in _cluster_folders() for path in folder.glob("*.yaml")}))


def cluster_files(name: str) -> tuple[Path, ...]:
    """The user's own profile first, then the packaged one; empty: there is no such profile."""
    if name not in cluster_names():
        return ()
    return tuple(path for folder in _cluster_folders() if (path := folder / f"{name}.yaml").is_file())


def _cluster_folders() -> tuple[Path, ...]:
    return config() / "clusters", _HERE / "clusters"
