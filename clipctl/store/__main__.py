"""`python -m clipctl.store`: brings the store to this version's schema, for commands that may only read."""

from __future__ import annotations

import sys

from clipctl.errors import ClipctlError
from clipctl.home import home
from clipctl.store import open_store

try:
    with open_store(home()) as store:
        print(f"{store.path} is up to date")
except ClipctlError as error:
    print(f"{error.message}\nhint: {error.hint}", file=sys.stderr)
    sys.exit(error.exit_code)
