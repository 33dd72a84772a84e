"""Python's garbage collector: not while torch is imported, and then on all ranks at the same steps.

A full collection looks at the 400,000 objects of torch and open_clip for 0.4 s and finds nothing. Importing them sets
off eight; later ones come at another step on each rank, and all others wait.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 100  # steps


def put_off() -> None:
    """In this process it runs only when it is called; a process that is forked from it begins with `resume`."""
    gc.disable()


def resume() -> None:
    gc.enable()


@contextmanager
def set_aside() -> Iterator[None]:
    """What exists by now stays: no collection looks at it, and no forked process copies its pages for that."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def collect(step: int) -> None:
    """After each step."""
    if step % EVERY == 0:
        gc.collect()
