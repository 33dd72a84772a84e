"""A rank that takes half a second without a step for a hang, and gives up on others after three: `python -m tests.trainer.impatient ATTEMPT_FOLDER`."""

from __future__ import annotations

import sys

from trainer import deadlines, stacks
from trainer.__main__ import main
from trainer.contract import Phase

if __name__ == "__main__":
    stacks.HUNG_AFTER = 0.5
    deadlines.SECONDS[Phase.TRAINING] = 3.0
    sys.exit(main(sys.argv[1:]))
