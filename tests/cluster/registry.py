"""Which clusters there are on this machine, and whose they are: what a dead test run left behind is found by it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from tests.cluster.processes import end_all, is_alive, start_time


def folder() -> Path:
    made = Path(tempfile.gettempdir()) / f"clipctl-clusters-{os.getuid()}"
    made.mkdir(mode=0o700, exist_ok=True)
    return made


def enter(cluster: Path, owner: int | None) -> None:
    """`owner`: the process with whose end the cluster is over; None: it stays until somebody ends it."""
    record = {"folder": str(cluster), "owner": owner, "started": start_time(owner) if owner else ""}
    _entry(cluster).write_text(json.dumps(record))


def leave(cluster: Path) -> None:
    _entry(cluster).unlink(missing_ok=True)


def clean() -> list[Path]:
    """Ends the clusters whose owner is dead; their folders."""
    cleaned = []
    for entry in folder().glob("*.json"):
        record = json.loads(entry.read_text())
        if record["owner"] is None or is_alive(record["owner"], record["started"]):
            continue
        cluster = Path(record["folder"])
        end_all(cluster)
        shutil.rmtree(cluster, ignore_errors=True)
        entry.unlink(missing_ok=True)
        cleaned.append(cluster)
    return cleaned


def standing() -> list[Path]:
    """Newest first."""
    entries = sorted(folder().glob("*.json"), key=lambda entry: entry.stat().st_mtime, reverse=True)
    return [Path(json.loads(entry.read_text())["folder"]) for entry in entries]


def _entry(cluster: Path) -> Path:
    return folder() / (str(cluster).strip("/").replace("/", "_") + ".json")
