"""The only reader of what nodes wrote: events, heartbeat, claim, exit, manifests.

Everything here may be missing, half written, replaced, of another version or garbage, on a file system that shows it
late: that is the normal case, not an error. An OSError other than "not there" is raised: it is no information.
"""

from __future__ import annotations

import json
import stat as mode_bits
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from clipctl.domain import CheckpointRecord, CheckpointState, Cursor, JournalFacts
from clipctl.layout import AttemptFolder, EvaluationFolder, JobFolder
from trainer import contract, evaluation
from trainer.contract import CheckpointManifest, Claim, Event, EventKind, Exit, Heartbeat
from trainer.evaluation import Result

T = TypeVar("T")

BATCH = 4 << 20  # bytes of whole lines that one `read` gives: some ten thousand events
LONGEST_LINE = 1 << 20  # bytes; what is longer is no event of ours
_CHUNK = 1 << 20
_SMALL_FILE = 1 << 20  # claim, exit and the like are a few hundred bytes


@dataclass(frozen=True)
class FileStat:
    size: int
    inode: int  # 0: this transport cannot tell
    regular: bool
    modified: float


class Files(Protocol):
    """A file system of ours, here or behind SFTP. FileNotFoundError says "not there" where no None does."""

    def scandir(self, folder: Path) -> tuple[str, ...]: ...  # sorted names; empty if the folder is not there
    def read(self, path: Path, offset: int, size: int) -> bytes: ...  # at most `size` bytes
    def stat(self, path: Path) -> FileStat | None: ...
    def write_atomic(self, path: Path, text: str) -> None: ...


class LocalFiles:
    """This machine's file system, shared ones included."""

    def scandir(self, folder: Path) -> tuple[str, ...]:
        try:
            return tuple(sorted(entry.name for entry in folder.iterdir()))
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def read(self, path: Path, offset: int, size: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)

    def stat(self, path: Path) -> FileStat | None:
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        regular = mode_bits.S_ISREG(found.st_mode)
        return FileStat(size=found.st_size, inode=found.st_ino, regular=regular, modified=found.st_mtime)

    def write_atomic(self, path: Path, text: str) -> None:
        contract.write_atomic(path, text)


# --- events -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """The events of an attempt that say where it is and how it ended."""

    started: Event | None = None  # newest
    progress: Event | None = None  # newest
    checkpoint: Event | None = None  # newest
    diverged: Event | None = None  # first since then
    final: Event | None = None  # the trainer's last word since then


def landmarks(events: Iterable[Event], so_far: Landmarks | None = None) -> Landmarks:
    """`so_far` moved on by `events`, which come after it."""
    found = so_far or Landmarks()
    for event in events:
        if event.kind == EventKind.PROGRESS:
            found = replace(found, progress=event)
        elif event.kind == EventKind.CHECKPOINT:
            found = replace(found, checkpoint=event)
        elif event.kind == EventKind.STARTED:  # again: the site started the same job once more
            found = replace(found, started=event, diverged=None, final=None)
        elif event.kind == EventKind.DIVERGED and found.diverged is None:
            found = replace(found, diverged=event)
        if event.kind in contract.FINAL_EVENTS:
            found = replace(found, final=event)
    return found


def read(files: Files, folder: AttemptFolder, cursor: Cursor, most: int = BATCH) -> tuple[JournalFacts, Cursor]:
    """The events after `cursor`, in order, at most about `most` bytes of them and one at least, and the heartbeat.

    An event is given once even when the file was copied, replaced or truncated and so is read again from its start.
    """
    heartbeat = _contract_file(files, folder.heartbeat, Heartbeat)
    found = files.stat(folder.events)
    if found is None or not found.regular:
        return JournalFacts(heartbeat=heartbeat), cursor
    if not _goes_on(files, folder.events, cursor, found):
        cursor = replace(cursor, offset=0)
    lines = _Lines(cursor.offset)
    more = _fill(files, folder.events, found.size, lines, most)
    events, skipped = _events(lines.whole, cursor.seq)
    facts = JournalFacts(
        events=events, heartbeat=heartbeat, torn=lines.torn, more=more, skipped=skipped + lines.overlong
    )
    seq = events[-1].seq if events else cursor.seq
    return facts, Cursor(offset=lines.offset, inode=found.inode, seq=seq)


def read_all(files: Files, folder: AttemptFolder, cursor: Cursor) -> Iterator[tuple[JournalFacts, Cursor]]:
    """`read` until nothing is new: one batch in memory at a time. At least one pair, for the heartbeat."""
    while True:
        facts, following = read(files, folder, cursor)
        yield facts, following
        if following == cursor:
            return
        cursor = following


def _goes_on(files: Files, path: Path, cursor: Cursor, found: FileStat) -> bool:
    """Whether the file still is the one that was read up to the cursor: same inode, not shorter, a line ends there."""
    if cursor.offset == 0:
        return True
    if found.inode != cursor.inode or found.size < cursor.offset:
        return False
    return files.read(path, cursor.offset - 1, 1) == b"\n"


class _Lines:
    """Cuts chunks into whole lines; holds at most one unfinished line, and of an overlong one nothing."""

    def __init__(self, offset: int) -> None:
        self.offset = offset  # of the first byte that belongs to no whole line yet
        self.whole: list[bytes] = []
        self.overlong = 0
        self._rest = b""
        self._passed = 0  # bytes of an overlong line that were dropped

    @property
    def torn(self) -> bool:
        return bool(self._rest or self._passed)

    def add(self, chunk: bytes) -> None:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._end_line(end)
        self._rest += rest
        if self._passed or len(self._rest) > LONGEST_LINE:
            self._passed += len(self._rest)
            self._rest = b""

    def _end_line(self, end: bytes) -> None:
        line = self._rest + end
        self.offset += self._passed + len(line) + 1
        if self._passed or len(line) > LONGEST_LINE:
            self.overlong += 1
        elif line.strip():
            self.whole.append(line)
        self._rest, self._passed = b"", 0


def _fill(files: Files, path: Path, size: int, lines: _Lines, most: int) -> bool:
    """Reads on from the lines' offset to `size`, the file's end when we looked: a writer must not keep us here.

    True: there is more. An overlong line is passed over at once, however long: nobody parses it.
    """
    start = position = lines.offset
    while position < size:
        if lines.offset - start >= most:
            return True
        chunk = files.read(path, position, min(_CHUNK, most, size - position))
        if not chunk:
            break
        position += len(chunk)
        lines.add(chunk)
    return False


def _events(lines: Iterable[bytes], seq: int) -> tuple[tuple[Event, ...], int]:
    """Events with a number above `seq`, each number once, and how many lines were none."""
    events: list[Event] = []
    skipped = 0
    for line in lines:
        try:  # bytes that are no UTF-8 spoil a word, not the event
            event = event_of(line.decode("utf-8", errors="replace"))
        except ValueError:
            skipped += 1
            continue
        if event.seq > seq:
            seq = event.seq
            events.append(event)
    return tuple(events), skipped


_INTEGERS = ("seq", "epoch", "step", "samples_seen", "schema")
_OWN = (*_INTEGERS, "time", "kind")


def event_of(text: str) -> Event:
    """As `contract.loads`, in less than half its time for the usual line: a look at a long run reads thousands."""
    try:
        raw = json.loads(text)
        plain = all(type(raw[name]) is int for name in _INTEGERS)
        plain = plain and type(raw["time"]) is float and type(raw["kind"]) is str
    except (ValueError, KeyError, TypeError, RecursionError):
        plain = False
    if not plain:
        return contract.loads(Event, text)
    own = {name: raw.pop(name) for name in _OWN}
    return Event(facts=raw, **own)


# --- single files -----------------------------------------------------------------------------------


def heartbeat(files: Files, folder: AttemptFolder) -> Heartbeat | None:
    return _contract_file(files, folder.heartbeat, Heartbeat)


def attempt(files: Files, folder: AttemptFolder) -> contract.Attempt | None:
    return _contract_file(files, folder.attempt, contract.Attempt)


def claim(files: Files, folder: AttemptFolder) -> Claim | None:
    """Who holds the attempt; None also while the claim is being written."""
    return _contract_file(files, folder.claim, Claim)


def exit_record(files: Files, folder: JobFolder) -> Exit | None:
    """What the script's trap left; None after a SIGKILL."""
    return _contract_file(files, folder.exit, Exit)


def results(files: Files, folder: EvaluationFolder) -> tuple[Result, ...]:
    """What an evaluation's job has found so far; none where it is not what a job writes."""
    try:
        return evaluation.parsed(files.read(folder.results, 0, _SMALL_FILE))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return ()


def _contract_file(files: Files, path: Path, kind: type[T]) -> T | None:
    try:
        return contract.loads(kind, files.read(path, 0, _SMALL_FILE))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None


# --- checkpoints ------------------------------------------------------------------------------------


def manifests(files: Files, folder: AttemptFolder) -> tuple[CheckpointRecord, ...]:
    """The attempt's checkpoints, oldest first: a manifest, and beside it a regular file of the size it states.

    Nothing else is one: no tmp.pt, no file without its manifest, no folder that is named like one.
    """
    return tuple(record for record in checkpoints(files, folder) if record.state is CheckpointState.COMPLETE)


def checkpoints(files: Files, folder: AttemptFolder) -> tuple[CheckpointRecord, ...]:
    """As `manifests`, and with state DAMAGED those whose file does not have the stated size."""
    records = [
        record
        for parent in (folder.checkpoints, folder.steps)
        for name in files.scandir(parent)
        if name.endswith(".pt" + contract.MANIFEST_SUFFIX)
        and (record := _checkpoint(files, folder, parent / name.removesuffix(contract.MANIFEST_SUFFIX))) is not None
    ]
    return tuple(sorted(records, key=lambda record: (record.manifest.samples_seen, record.manifest.time)))


def _checkpoint(files: Files, folder: AttemptFolder, path: Path) -> CheckpointRecord | None:
    manifest = _contract_file(files, path.with_name(path.name + contract.MANIFEST_SUFFIX), CheckpointManifest)
    found = files.stat(path)
    if manifest is None or found is None or not found.regular or manifest.file != path.name:
        return None
    state = CheckpointState.COMPLETE if found.size == manifest.size else CheckpointState.DAMAGED
    run_folder = folder.path.parent.parent
    return CheckpointRecord(path=str(path.relative_to(run_folder)), manifest=manifest, state=state)
