"""A rank that loses its patience fast: `python -m tests.trainer.impatient ATTEMPT_FOLDER`.

Half a second without a step is a hang to it, and on others it gives up after three.
"""

from __future__ import annotations

import sys

from trainer import deadlines, stacks
from trainer.__main__ import main
from trainer.contract import Phase

if __name__ == "__main__":
    stacks.HUNG_AFTER = 0.5
    deadlines.SECONDS[Phase.TRAINING] = 3.0
    sys.exit(main(sys.argv[1:]))
