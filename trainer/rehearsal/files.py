"""Checkpoints of the rehearsal engine: numpy's .npz (a zip with CRCs) under the keys of open_clip's."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from trainer.unusable import Unusable

SECTIONS = ("state_dict", "optimizer", "scaler")  # mappings of names to arrays and numbers
PLAIN = "plain"  # all else, as JSON


def write(payload: Mapping[str, Any], file: IO[bytes]) -> None:
    plain = {key: value for key, value in payload.items() if key not in SECTIONS}
    members: dict[str, Any] = {PLAIN: np.array(json.dumps(plain))}
    members |= {f"{section}/{name}": value for section in SECTIONS for name, value in payload[section].items()}
    content = io.BytesIO()  # savez wants to read and seek
    np.savez(content, **members)
    file.write(content.getbuffer())


def read(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            members = {name: archive[name] for name in archive.files}
        payload: dict[str, Any] = json.loads(str(members.pop(PLAIN)))
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Unusable(f"{path} is no checkpoint of the rehearsal engine: {error}") from error
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in members.items():
        section, key = name.split("/")
        sections[section][key] = value
    return payload | sections
