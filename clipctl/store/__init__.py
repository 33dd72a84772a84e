"""The run store: SQLite under $CLIPCTL_HOME, an index of facts that also lie in the run folders.

`open_store` is for commands that write (SQLModel is imported only then); `clipctl.store.views` reads through the
standard library alone. Whatever only clipctl knows (intents, answers, decisions) goes to the run's `decisions.jsonl`
first, within the same call, and to the database second: the files are what survives.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clipctl.store.records import (
    Answer,
    DecisionRecord,
    EvaluationRecord,
    Intent,
    JobRecord,
    NewRun,
    RunRecord,
    StandbyRecord,
    Steps,
)

if TYPE_CHECKING:
    from clipctl.store.writer import Store

__all__ = [
    "Answer",
    "DecisionRecord",
    "EvaluationRecord",
    "Intent",
    "JobRecord",
    "NewRun",
    "RunRecord",
    "StandbyRecord",
    "Steps",
    "open_store",
]


def open_store(home: Path) -> Store:
    """The store of `home`, created or migrated where needed; a context manager.

    Refused: `home` is writable for everybody, or a newer clipctl wrote the database. Damaged: the file is no database
    any more. Unavailable: locked, read-only, or the disk does not answer.
    """
    from clipctl.store.writer import Store  # SQLAlchemy takes longer to import than most commands to run

    return Store(home)
