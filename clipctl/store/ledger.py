"""`decisions.jsonl` in a run's folder: what only clipctl knows, one line each, on disk before it has an effect.

A record says all that the database makes of it, so that the database can be made again from the run folders.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from clipctl.errors import Unavailable
from clipctl.layout import RunFolder
from trainer import contract


class EntryKind(StrEnum):
    INTENT = "intent"  # an attempt and its job, about to be submitted
    ANSWER = "answer"  # what the scheduler said to it
    SEEN = "seen"  # what the scheduler says of the job has changed
    END = "end"  # the job is over, and how that is known
    INCIDENT = "incident"  # how the attempt ended
    HOLD = "hold"
    RELEASE = "release"
    CANCEL = "cancel"
    STOP = "stop"  # of a job that runs, by policy
    COMPLETE = "complete"
    CHECKED = "checked"  # what a look at a checkpoint's bytes said
    SAVE = "save"  # a person asked for a checkpoint
    STANDBY = "standby"  # the intent of a job that is to wait in the queue until the run's job has ended
    STANDBY_ANSWER = "standby_answer"
    STANDBY_SEEN = "standby_seen"
    WITHDRAW = "withdraw"  # it must not start; the scheduler is told next
    PROMOTE = "promote"  # it has started: from here on it is the run's newest attempt, and its live job
    STANDBY_END = "standby_end"  # it is gone, and never was an attempt
    ADOPT = "adopt"  # the attempt ran under open_clip_train, and is over
    EVALUATION = "evaluation"  # the intent of a job that scores a checkpoint
    EVALUATION_ANSWER = "evaluation_answer"
    EVALUATION_END = "evaluation_end"  # what it found, as its results.jsonl has it
    VOID = "void"  # the line that it names had no effect: the database did not take it


_TAIL = 1 << 16  # bytes: more than any line that is written often


def append(folder: RunFolder, record: Mapping[str, Any]) -> None:
    """One fsynced line. Whoever calls holds the database's write lock, so that lines do not mix."""
    line = json.dumps(contract.to_jsonable(record), allow_nan=False).encode() + b"\n"
    path = folder.decisions
    try:
        created = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _write(descriptor, line)
        finally:
            os.close(descriptor)
        if created:
            contract.sync_folder(folder.path)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}; nothing was decided", hint=f"ls -ld {folder.path}") from error


def _write(descriptor: int, line: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line  # a crash tore the last line: it must not swallow this one
    written = os.write(descriptor, line)
    if written != len(line):
        raise OSError(None, "the disk took a part of the line only")
    os.fsync(descriptor)


def newest(folder: RunFolder) -> str | None:
    """The id of the last line, from the file's end alone; None where that says nothing."""
    try:
        with open(folder.decisions, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL))
            records = list(_records(file.read()[-_TAIL:]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(folder, error) from error
    return records[-1].get("id") if records else None


def entries(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Every whole record, oldest first; torn lines are left out. None if there is no file."""
    try:
        data = folder.decisions.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(folder, error) from error
    yield from _records(data)


def standing(folder: RunFolder) -> list[dict[str, Any]]:
    """Every record that was not taken back."""
    records = list(entries(folder))
    void = {record.get("of") for record in records if record.get("kind") == EntryKind.VOID}
    return [record for record in records if record.get("kind") != EntryKind.VOID and record.get("id") not in void]


def was_submitted(folder: RunFolder, record: Mapping[str, Any]) -> bool:
    """An intent whose job may exist: its files are written once it is committed, and before the scheduler hears."""
    nonce = str(record.get("nonce"))
    if record.get("kind") == EntryKind.EVALUATION:
        return folder.evaluation(nonce).path.exists()
    return record.get("kind") in (EntryKind.INTENT, EntryKind.STANDBY) and folder.job(nonce).path.exists()


def take_back(folder: RunFolder, record: Mapping[str, Any]) -> None:
    """Says that a line had no effect: the database did not take what it says."""
    append(folder, {"kind": EntryKind.VOID, "of": record["id"], "time": record["time"], "schema": contract.SCHEMA})


def _records(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def _unreadable(folder: RunFolder, error: OSError) -> Unavailable:
    return Unavailable(f"{folder.decisions}: {error.strerror}", hint=f"ls -ld {folder.path}")
