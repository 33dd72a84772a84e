"""Is this the `trainer` that clipctl installed? The name is anybody's: a folder in PYTHONPATH, a package on PyPI."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from trainer.contract import ExitCode


def refuse_foreign() -> None:
    """Leaves the process with ExitCode.REFUSED where this package is a copy that Python found before clipctl's own."""
    here, installed = Path(__file__).resolve().parent, installed_folder()
    if here == installed:
        return
    belongs = f"clipctl's own is {installed}" if installed else "clipctl is not installed for this Python"
    print(f"error: the package `trainer` was found in {here}; {belongs}: check PYTHONPATH", file=sys.stderr)
    raise SystemExit(ExitCode.REFUSED)


def installed_folder() -> Path | None:
    """Where clipctl's distribution keeps this package; for an editable install that is its source."""
    record = _record()
    if record is None:
        return None
    direct = record / "direct_url.json"
    source = json.loads(direct.read_bytes()) if direct.exists() else {}
    if source.get("dir_info", {}).get("editable"):
        return Path(unquote(urlsplit(source["url"]).path), "trainer").resolve()
    return (record.parent / "trainer").resolve()


def _record() -> Path | None:
    """clipctl's .dist-info, the first that Python finds. importlib.metadata takes 25 ms, times 384 ranks."""
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:  # a zip, or not there
            continue
        for name in names:
            if name.startswith("clipctl-") and name.endswith(".dist-info"):
                return Path(folder, name)
    return None
