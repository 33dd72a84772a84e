"""One rank: `python -P -m trainer ATTEMPT_FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from trainer import garbage
from trainer.contract import ATTEMPT_FILE, SCHEMA, Attempt, ExitCode, loads
from trainer.flight import variables
from trainer.origin import refuse_foreign
from trainer.signals import StopRequest


def main(arguments: list[str]) -> int:
    garbage.put_off()
    refuse_foreign()
    if len(arguments) != 1:
        print("usage: python -P -m trainer ATTEMPT_FOLDER", file=sys.stderr)
        return ExitCode.REFUSED
    folder = Path(arguments[0]).resolve()
    try:
        attempt = loads(Attempt, (folder / ATTEMPT_FILE).read_bytes())
    except (OSError, ValueError) as error:
        print(f"error: {folder / ATTEMPT_FILE}: {error}", file=sys.stderr)
        return ExitCode.REFUSED
    if attempt.schema > SCHEMA:
        print(f"error: {folder} was written by a newer clipctl (schema {attempt.schema} > {SCHEMA})", file=sys.stderr)
        return ExitCode.REFUSED
    for name, value in variables(folder).items():
        os.environ.setdefault(name, value)
    stop = StopRequest()
    stop.listen()  # before the imports that take seconds
    from trainer.engines import runner

    code = runner(attempt.train.engine)(attempt, folder, stop)
    stop.ignore()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
