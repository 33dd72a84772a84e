"""What a Slurm 22.05.8 really answered (tests/data/slurm), and whose jobs were in it."""

from __future__ import annotations

from pathlib import Path

from clipctl.domain import JobIdentity

DATA = Path(__file__).parents[1] / "data/slurm"
MARK = "~0123456789abcdef~"
UID = 5
INTENT = 1795515276.0  # of the first of them


def recorded(name: str) -> str:
    return (DATA / f"{name}.txt").read_text(encoding="utf-8")


def job(number: int, *, intent: float = INTENT, run_id: str = "abcd1234") -> JobIdentity:
    """`clipctl:demo:<number>:000000000000000<number>`: 1 failed with 85, 2 completed, 3 was requeued, 4 runs, 5 was
    cancelled by root, 6 asks for 97 nodes, 7 begins later, 8 is held, 9 was submitted again and again by hand."""
    return JobIdentity(run="demo", run_id=run_id, attempt=number, nonce=f"{number:016}", submitted_at=intent)
