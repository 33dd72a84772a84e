"""open_clip_train, unchanged, in a process that does not outlive its wrapper.

`python -P -m trainer.wrapper.child PID ...`: PID is the wrapper's, the rest what `open_clip_train.main` is told.
"""

from __future__ import annotations

import runpy
import sys

from trainer.models import register_models
from trainer.spawn import die_with

PROGRAM = "open_clip_train.main"


def main(arguments: list[str]) -> None:
    wrapper, *rest = arguments
    die_with(int(wrapper))
    register_models()  # it knows open_clip's own configurations alone
    sys.argv = [PROGRAM, *rest]
    runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
