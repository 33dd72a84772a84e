"""Who may act for a store: one host, and there one process at a time. Made for NFS: link(2), and no flock.

Whoever may act holds a *term*: the file `term.N` in `$CLIPCTL_HOME/watchdog`, which comes into being whole or not at
all. Who finds term N over makes N + 1, and of two only one can. Nothing of somebody else's is ever removed to get in,
so a slow process cannot undo what a fast one did; one that slept too long finds a higher term than its own, and stops.

The host of the last term owns the store: others stand by, between its ticks too.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from clipctl.errors import Refused, Unavailable
from clipctl.store import home as homes
from clipctl.store.ticks import folder_of
from trainer import contract

STUCK = 20 * 60.0  # seconds without a beat of a process that lives
LEASE = 30 * 60.0  # seconds without a beat of another host, by this host's own watching; ticks may be rarer
BEAT_EVERY = 10.0  # seconds
Uptime = Callable[[], float]
_STARTED = 19  # in /proc/<pid>/stat, counted after the name


@dataclass(frozen=True, kw_only=True)
class Holder:
    host: str
    boot: str  # of this start of the host
    pid: int
    started: int  # clock ticks since the boot: with the pid it is one process, the pid alone is given again


@dataclass(frozen=True, kw_only=True)
class Term:
    number: int
    holder: Holder
    since: float  # seconds since 1970
    beats: int = 0
    beat_at: float = 0.0  # seconds since the boot of its host
    over: bool = False
    every: float | None = None  # seconds from one tick of this owner to the next


class Standing(StrEnum):
    """Why this process may not act."""

    BUSY = "busy"  # another process of this host is at it
    STUCK = "stuck"  # and has not moved for long
    STANDBY = "standby"  # another host owns the store


@dataclass(frozen=True, kw_only=True)
class Closed:
    standing: Standing
    term: Term
    silent_for: float  # seconds since its last beat, as far as this host knows


class Overtaken(Refused):
    """Somebody else has begun a term: whatever this process was about to do is theirs to do."""


class Lease:
    """A term of this process. Use `take` to get one."""

    def __init__(self, folder: Path, term: Term, broken: Term | None, uptime: Uptime) -> None:
        self._folder, self._uptime = folder, uptime
        self.term, self.broken = term, broken  # broken: the one before, where nobody ended it

    def check(self) -> None:
        """Before whatever has an effect. Overtaken."""
        if _newest(self._folder) != self.term.number:
            raise Overtaken("another process took over: nothing more is done here", hint="clipctl watchdog status")

    def beat(self) -> None:
        """At every step: a sign of life where it is time for one. Overtaken."""
        if self._uptime() - self.term.beat_at >= BEAT_EVERY:
            self.check()
            self._write(over=False)

    def end(self) -> None:
        self._write(over=True)

    def _write(self, *, over: bool) -> None:
        self.term = replace(self.term, beats=self.term.beats + 1, beat_at=self._uptime(), over=over)
        _written(_path(self._folder, self.term.number), self.term)


def take(
    home: Path, *, take_over: bool = False, every: float | None = None, uptime: Uptime = time.monotonic
) -> Lease | Closed:
    """A term for this process, at once or not at all. `take_over`: from another host, whatever it is at.

    `every`: seconds to this host's next tick. `uptime`: of this host, in seconds; the same for all of its processes.

    Unavailable: the file system does not answer.
    """
    folder = folder_of(home)
    try:
        homes.prepare(home)
        folder.mkdir(mode=0o700, exist_ok=True)
        last = newest(home)
        if last is not None and (closed := _closed(folder, last, take_over, uptime())):
            return closed
        return _begin(folder, last, every, uptime)
    except OSError as error:
        raise Unavailable(f"{folder}: {error.strerror}", hint=f"ls -ld {folder}") from error


def newest(home: Path) -> Term | None:
    """The last term of all; None: there was none yet. One that cannot be read is some other host's."""
    number = _newest(folder_of(home))
    if not number:
        return None
    try:
        return contract.loads(Term, _path(folder_of(home), number).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        nobody = Holder(host="?", boot="", pid=0, started=0)
        return Term(number=number, holder=nobody, since=0.0)


# --- may it be taken? -------------------------------------------------------------------------------


def _closed(folder: Path, last: Term, take_over: bool, now: float) -> Closed | None:
    if last.holder.host == host():
        return None if last.over else _closed_here(last, now)
    silent, lease = _silent_for(folder, last, now), max(LEASE, 3 * (last.every or 0.0))
    if take_over or silent >= lease:
        return None
    return Closed(standing=Standing.STANDBY, term=last, silent_for=silent)


def _closed_here(last: Term, now: float) -> Closed | None:
    """Of this host it is known whether the holder lives."""
    if not lives(last.holder):
        return None
    silent = now - last.beat_at
    return Closed(standing=Standing.STUCK if silent > STUCK else Standing.BUSY, term=last, silent_for=silent)


@dataclass(frozen=True, kw_only=True)
class _Watched:
    """What this host saw of another one's term, and when it saw that first."""

    number: int
    beats: int
    boot: str  # of this host: its clock starts anew with each
    at: float


def _silent_for(folder: Path, last: Term, now: float) -> float:
    """By the time that passed here while the term stayed the same: clocks of two hosts are never compared."""
    path = folder / f"standby.{host()}"
    seen = _Watched(number=last.number, beats=last.beats, boot=boot(), at=now)
    try:
        before = contract.loads(_Watched, path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        before = None
    if before is not None and replace(before, at=seen.at) == seen:
        return seen.at - before.at
    contract.write_atomic(path, contract.dumps(seen))
    return 0.0


def lives(holder: Holder) -> bool:
    """Of a process of this host."""
    return holder.boot == boot() and _started(holder.pid) == holder.started


# --- terms ------------------------------------------------------------------------------------------


def _begin(folder: Path, last: Term | None, every: float | None, uptime: Uptime) -> Lease | Closed:
    number = last.number + 1 if last else 1
    term = Term(number=number, holder=here(), since=time.time(), beat_at=uptime(), every=every)
    if not _created(folder, term) or _newest(folder) != number:
        # Another one was faster, by however many terms: it is at work
        return Closed(standing=Standing.BUSY, term=newest(folder.parent) or term, silent_for=0.0)
    _clear(folder, number)
    return Lease(folder, term, last if last and not last.over else None, uptime)


def _created(folder: Path, term: Term) -> bool:
    """By a link, which one of many gets. The count of links says who got it: an answer of NFS may be lost, and the
    request that is sent again be told that the name is there."""
    draft = folder / f".term.{term.number}.{secrets.token_hex(4)}"
    _written(draft, term)
    try:
        os.link(draft, _path(folder, term.number))
    except FileExistsError:
        pass
    except FileNotFoundError:  # cleared away by one that is ahead of us
        return False
    try:
        return draft.stat().st_nlink == 2
    except FileNotFoundError:
        return False
    finally:
        draft.unlink(missing_ok=True)


def _clear(folder: Path, number: int) -> None:
    """What terms before the last one have left."""
    for name in os.listdir(folder):
        match = re.match(r"(\.*)term\.(\d+)", name)
        if match and int(match[2]) < number - (0 if match[1] else 1):
            (folder / name).unlink(missing_ok=True)


def _written(path: Path, term: Term) -> None:
    try:
        contract.write_atomic(path, contract.dumps(term))
    except OSError as error:
        hint = f"ls -ld {path.parent} && df -h {path.parent}"
        raise Unavailable(f"{path}: {error.strerror}", hint=hint) from error


def _path(folder: Path, number: int) -> Path:
    return folder / f"term.{number}"


def _newest(folder: Path) -> int:
    """By listing: a name that is looked up may be remembered wrongly on NFS."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    return max((int(match[1]) for name in names if (match := re.fullmatch(r"term\.(\d+)", name))), default=0)


# --- this process -----------------------------------------------------------------------------------


def here() -> Holder:
    return Holder(host=host(), boot=boot(), pid=os.getpid(), started=_started(os.getpid()) or 0)


def host() -> str:
    return socket.gethostname()


def boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> int | None:
    """None: there is no such process, or nothing but its exit status is left of it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat[0] in "ZX" else int(stat[_STARTED])
