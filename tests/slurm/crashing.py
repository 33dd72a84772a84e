"""`python crashing.py POINT clipctl-arguments...`: clipctl, killed by SIGKILL at one place of what it does.

Nothing is replaced: each point stands before or after a call that clipctl makes, and the call itself is the real one.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipctl.backends.slurm import SlurmBackend
from clipctl.ops import execute
from clipctl.store import lease, ledger
from clipctl.store.lease import Lease
from clipctl.store.writer import Store
from trainer import contract


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, when: Callable[..., bool] = lambda *_, **__: True) -> None:
    real = getattr(owner, name)

    def call(*arguments: Any, **more: Any) -> Any:
        if when(*arguments, **more):
            die()
        return real(*arguments, **more)

    setattr(owner, name, call)


def after(owner: Any, name: str, when: Callable[..., bool] = lambda *_, **__: True) -> None:
    real = getattr(owner, name)

    def call(*arguments: Any, **more: Any) -> Any:
        result = real(*arguments, **more)
        if when(*arguments, **more):
            die()
        return result

    setattr(owner, name, call)


def half_written(name: str) -> None:
    """The temporary file of a write_atomic holds half of its text."""
    real = contract.write_atomic

    def call(path: Path, text: str) -> None:
        if path.name == name:
            path.with_name(f".{path.name}.{os.getpid()}.tmp").write_text(text[: len(text) // 2])
            die()
        real(path, text)

    contract.write_atomic = call


def submission(path: Path, *_: Any) -> bool:
    return path.name == contract.SUBMISSION_FILE


def kind(wanted: str) -> Callable[..., bool]:
    return lambda folder, record: record["kind"] == wanted


Places = dict[str, Callable[[], None]]

OF_A_SUBMISSION: Places = {
    "K3 the intent's line is on disk, its row is not": lambda: after(ledger, "append", kind("intent")),
    "K4 the intent is committed": lambda: before(execute, "write_files"),
    "K5 half of the script is written": lambda: half_written(contract.SUBMISSION_FILE),
    "K6 the script has its name": lambda: after(contract, "write_atomic", submission),
    "K7 before sbatch": lambda: before(SlurmBackend, "submit"),
    "K10 the answer is read, and not written down": lambda: before(Store, "answered"),
    "K11 the answer's line is on disk, its row is not": lambda: after(ledger, "append", kind("answer")),
    "K12 the answer is committed": lambda: after(Store, "answered"),
}
OF_A_COMMAND: Places = {
    "K1 before the store is opened": lambda: before(Store, "__init__"),
    "K2 the store is open, nothing is written": lambda: after(Store, "__init__"),
    **OF_A_SUBMISSION,
    "K13 before the store is closed": lambda: before(Store, "close"),
}
BEFORE_THE_LEASE = "K1 before the lease"
OF_A_TICK: Places = {
    BEFORE_THE_LEASE: lambda: before(lease, "take"),
    "K2 the lease is held": lambda: after(lease, "take"),
    **OF_A_SUBMISSION,
    "K13 before the lease is given back": lambda: before(Lease, "end"),
}
OF_A_STOP: Places = {
    "K14 the stop is committed, scancel was not sent": lambda: before(SlurmBackend, "cancel"),
    "K14 scancel was sent": lambda: after(SlurmBackend, "cancel"),
}
POINTS = OF_A_COMMAND | OF_A_TICK | OF_A_STOP


def main() -> None:
    point, *arguments = sys.argv[1:]
    POINTS[point]()
    sys.argv = ["clipctl", *arguments]
    from clipctl.cli import main as clipctl

    clipctl()


if __name__ == "__main__":
    main()
