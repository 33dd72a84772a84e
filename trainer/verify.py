"""Is a checkpoint's file the one that was written? Without unpickling a byte of it, and without torch."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from pathlib import Path

from trainer.contract import MANIFEST_SUFFIX, CheckpointManifest, loads

DIGEST_PREFIX = "sha256:"


def manifest_path(checkpoint: Path) -> Path:
    """Beside the file: epoch_68.pt -> epoch_68.pt.json."""
    return checkpoint.with_name(checkpoint.name + MANIFEST_SUFFIX)


def read_manifest(checkpoint: Path) -> CheckpointManifest | None:
    """None: not one of ours, or not published. ValueError: there, but not readable as a manifest."""
    try:
        return loads(CheckpointManifest, manifest_path(checkpoint).read_bytes())
    except FileNotFoundError:
        return None


def damage(checkpoint: Path, manifest: CheckpointManifest | None) -> str | None:
    """What is wrong with the file, in words; None when nothing is.

    With a manifest every byte is checked by digest. Without one (a checkpoint of open_clip's) the zip's own CRCs
    are all there is: torch.load does not look at them and returns wrong values for flipped bytes.
    """
    try:
        size = os.stat(checkpoint).st_size
    except FileNotFoundError:
        return "missing"
    if manifest is None:
        return _zip_damage(checkpoint)
    if size != manifest.size:
        return f"{size} bytes, the manifest says {manifest.size}"
    if not manifest.finite:
        return "its weights are not finite"
    if digest(checkpoint) != manifest.digest:
        return "its digest differs from the manifest's: bytes have changed since it was written"
    return None


def digest(path: Path) -> str:
    """As in a manifest: sha256:<hex> of the whole file."""
    with open(path, "rb") as file:
        return DIGEST_PREFIX + hashlib.file_digest(file, "sha256").hexdigest()


def _zip_damage(checkpoint: Path) -> str | None:
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            member = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        return f"not a whole torch checkpoint: {error}"
    return f"{member} in it is damaged" if member else None
