"""A rank that takes half a second without a step for a hang: `python -m tests.trainer.impatient ATTEMPT_FOLDER`."""

from __future__ import annotations

import sys

from trainer import stacks
from trainer.__main__ import main

if __name__ == "__main__":
    stacks.HUNG_AFTER = 0.5
    sys.exit(main(sys.argv[1:]))
