"""Whether anybody watches: the owner of the store, its last tick, and what was told to cron."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clipctl.store import ticks
from clipctl.store.lease import newest
from trainer.contract import SCHEMA


@dataclass(frozen=True, kw_only=True)
class WatchdogView:
    time: float
    owner: str | None  # the host whose ticks count; None: there was never one
    ticking: bool  # its last tick has not come to its end
    pid: int | None
    installed: ticks.Installed | None
    last: ticks.Tick | None  # that came to its end
    late: float | None  # seconds since then, where that is too long
    log: str
    schema: int = SCHEMA

    @property
    def silent(self) -> Mapping[str, float]:
        return self.last.silent if self.last else {}


def watchdog(home: Path, *, now: float) -> WatchdogView:
    term = newest(home)
    return WatchdogView(
        time=now,
        owner=term.holder.host if term else None,
        ticking=term is not None and not term.over,
        pid=term.holder.pid if term else None,
        installed=ticks.installed(home),
        last=ticks.last_tick(home),
        late=ticks.late(home, now),
        log=str(ticks.log_of(home)),
    )
