"""Texts that would do something if a shell read them, and a stand-in for python that writes down what it was given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hypothesis import strategies as st

from clipctl.domain import JobIdentity
from clipctl.layout import RunFolder

IDENTITY = JobIdentity(run="demo", run_id="0a1b2c3d", attempt=3, nonce="f00d", submitted_at=1.0)

TRAPS = [
    "$(touch canary)",
    "`touch canary`",
    "'; touch canary; '",
    '"; touch canary; "',
    "; touch canary #",
    "& touch canary &",
    "| touch canary",
    "$HOME",
    "${PATH}",
    "~",
    "*",
    "{a,b}",
    "!!",
    "\\",
    "\\'",
    "-n",
    "--",
    "#",
    " ",
    "%s",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "ü\U0001f469",
    "\u202e",
]
PIECE = st.sampled_from(TRAPS) | st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=8)
HOSTILE = st.lists(PIECE, min_size=1, max_size=3).map("".join)
FOLDER = HOSTILE.map(lambda text: "r" + text.replace("/", "_")[:40])

# Stands in for python: writes down with which words, in which folder and environment it was called.
RECORDER = """#!/bin/sh
n=0
while [ -e "$RECORDS/$n" ]; do n=$((n+1)); done
{ printf '%s\\0' "$0" "$@"; } >"$RECORDS/$n"
env -0 >"$RECORDS/env"
pwd >"$RECORDS/cwd"
"""


def recorder(path: Path, source: str = RECORDER) -> Path:
    path.write_text(source)
    path.chmod(0o755)
    return path


def run(script: str, folder: RunFolder, records: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """As a scheduler would, its output where --output has it."""
    for needed in (folder.job(IDENTITY.nonce).logs, folder.attempt(3).path, records):
        needed.mkdir(parents=True, exist_ok=True)
    file = folder.job(IDENTITY.nonce).submission
    file.write_text(script)
    environ = {"PATH": os.environ["PATH"], "HOME": str(records), "RECORDS": str(records)} | environ
    return subprocess.run(["bash", str(file)], env=environ, cwd=records, capture_output=True, text=True, timeout=60)


def words(record: Path) -> list[str]:
    return os.fsdecode(record.read_bytes()).split("\0")[:-1]
