"""torch's flight recorder: the newest collectives of each rank, kept in the attempt's folder when one fails or hangs.

NCCL's own thread writes it before it ends a process that has waited too long; with gloo, and after any other error, the
rank does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

FOLDER = "flight"  # in attempts/<n>/
RECORDS = "2000"  # collectives a rank; some hundred bytes each


class Recorded(Protocol):
    rank: int

    def flight(self) -> bytes:
        """Its newest collectives, as torch pickles them; empty: nothing recorded them."""


def variables(attempt_folder: Path) -> dict[str, str]:
    """For the environment, before ranks meet; each by its name of today and by the one before it."""
    file = f"{attempt_folder / FOLDER}/rank_"  # torch adds the rank
    return {
        "TORCH_FR_BUFFER_SIZE": RECORDS,
        "TORCH_NCCL_TRACE_BUFFER_SIZE": RECORDS,
        "TORCH_FR_DUMP_ON_TIMEOUT": "1",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_FR_DUMP_TEMP_FILE": file,
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": file,
    }


@contextmanager
def recorded(ranks: Recorded, attempt_folder: Path) -> Iterator[None]:
    """After an error the rank's own record is kept."""
    folder = attempt_folder / FOLDER
    if ranks.rank == 0:
        folder.mkdir(exist_ok=True)  # NCCL's thread makes none
    try:
        yield
    except Exception:
        if record := ranks.flight():
            with suppress(OSError):  # a full disk must not take the error's place
                (folder / f"rank_{ranks.rank}").write_bytes(record)
        raise
