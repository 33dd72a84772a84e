"""Is this the `trainer` that clipctl installed? The name is anybody's: a folder in PYTHONPATH, a package on PyPI."""

from __future__ import annotations

import importlib.metadata
import json
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
    try:
        distribution = importlib.metadata.distribution("clipctl")
    except importlib.metadata.PackageNotFoundError:
        return None
    source = json.loads(distribution.read_text("direct_url.json") or "{}")
    if source.get("dir_info", {}).get("editable"):
        return Path(unquote(urlsplit(source["url"]).path), "trainer").resolve()
    return Path(str(distribution.locate_file("trainer"))).resolve()
