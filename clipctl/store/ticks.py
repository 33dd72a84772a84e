"""What the last tick saw, and whether cron was told to tick: small files beside the store, for `status` to read.

They are no part of the database: what says that nobody watches must be there when the database cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from trainer import contract
from trainer.contract import SCHEMA

T = TypeVar("T")

PATIENCE = 15 * 60.0  # seconds without a tick that nobody need hear of; three ticks where they are rarer


@dataclass(frozen=True, kw_only=True)
class Tick:
    """The last one that came to its end. Times are seconds since 1970, by the clock of its host."""

    host: str
    at: float  # its start
    took: float
    runs: int  # that were looked at
    held: int  # runs that wait for a person
    said: tuple[str, ...] = ()  # a line for each that was decided, happened or went wrong
    silent: Mapping[str, float] = field(default_factory=dict)  # clusters that did not answer, and since when
    every: float | None = None  # seconds to the next, where that is known
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Installed:
    host: str
    where: str  # crontab, scrontab
    at: float
    every: float  # seconds
    schema: int = SCHEMA


def folder_of(home: Path) -> Path:
    return home / "watchdog"


def last_tick(home: Path) -> Tick | None:
    return _read(folder_of(home) / "tick.json", Tick)


def installed(home: Path) -> Installed | None:
    return _read(folder_of(home) / "installed.json", Installed)


def write_tick(home: Path, tick: Tick) -> None:
    """OSError."""
    contract.write_atomic(folder_of(home) / "tick.json", contract.dumps(tick))


def write_installed(home: Path, installed: Installed | None) -> None:
    """None: not any more. OSError."""
    path = folder_of(home) / "installed.json"
    if installed is None:
        path.unlink(missing_ok=True)
    else:
        contract.write_atomic(path, contract.dumps(installed))


def late(home: Path, now: float) -> float | None:
    """Seconds since the last tick where that is too long; None: it is not, or nobody ever wanted one."""
    tick, told = last_tick(home), installed(home)
    if tick is None and told is None:
        return None
    ages = [now - known.at for known in (tick, told) if known is not None]
    every = max((known.every or 0.0 for known in (tick, told) if known is not None), default=0.0)
    age = min(ages)
    return age if age > max(PATIENCE, 3 * every) else None


def _read(path: Path, kind: type[T]) -> T | None:
    """None as well for what another version may have made of it: nothing depends on it."""
    try:
        return contract.loads(kind, path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


# --- the log of cron's ticks ------------------------------------------------------------------------

LOG_SIZE = 1 << 20  # bytes; of that many there are two, the one written to and the one before


def log_of(home: Path) -> Path:
    return folder_of(home) / "watchdog.log"


def rotate_log(home: Path) -> None:
    """By whoever holds the term. What writes to it now goes on writing to the old one, to its end."""
    path = log_of(home)
    try:
        if path.stat().st_size > LOG_SIZE:
            path.replace(path.with_name(path.name + ".1"))
    except FileNotFoundError:
        return
