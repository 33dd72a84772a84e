"""The database again, from run folders alone: run.json, decisions.jsonl, and what the nodes wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from clipctl import journal
from clipctl.domain import Cursor, RunState
from clipctl.errors import ClipctlError, Damaged, Unavailable
from clipctl.journal import Files
from clipctl.layout import RunFolder
from clipctl.store import effects, ledger, rows
from clipctl.store.ledger import EntryKind
from clipctl.store.tables import AttemptRow, RunRow


def take_in_run(session: Session, folder: RunFolder, lines: Sequence[effects.Line], files: Files | None) -> RunRow:
    """The run with all that `lines` say of it; with `files`, all that its nodes wrote, too.

    Damaged: the folder does not say enough. Unavailable: it cannot be read now.
    """
    if not lines or lines[0].get("kind") != EntryKind.INTENT:
        raise _incomplete(folder, "decisions.jsonl does not begin with an intent")
    try:
        with session.begin_nested():
            run = _run(lines[0], folder)
            session.add(run)
            session.flush()
            for line in lines:
                effects.take_in(session, run, line)
            if files is not None:
                _take_in_journals(session, run, folder, files)
    except (LookupError, TypeError, ValueError, IntegrityError) as error:
        what = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise _incomplete(folder, f"decisions.jsonl is not what was written ({what})") from error
    return run


def _run(first: effects.Line, folder: RunFolder) -> RunRow:
    return RunRow(
        name=first["run"],
        run_id=first["run_id"],
        folder=str(folder.path),
        cluster=first["cluster"],
        scheduler=first["scheduler"],
        spec=_spec(folder),
        epochs=first["epochs"],
        limits=rows.to_json(first["limits"]),
        created_at=first["time"],
        state=RunState.QUEUED,
    )


def _spec(folder: RunFolder) -> str:
    try:
        return folder.run.read_text("utf-8")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise _incomplete(folder, "run.json is not there, or no text") from error
    except OSError as error:
        raise Unavailable(f"{folder.run}: {error.strerror}", hint=f"ls -l {folder.path}") from error


def _take_in_journals(session: Session, run: RunRow, folder: RunFolder, files: Files) -> None:
    for attempt in session.exec(select(AttemptRow).where(AttemptRow.run == run.name)).all():
        there = folder.attempt(attempt.number)
        try:
            for facts, cursor in journal.read_all(files, there, Cursor()):
                rows.add_events(session, attempt, facts, cursor)
            rows.list_checkpoints(session, attempt, journal.checkpoints(files, there))
        except OSError as error:
            raise Unavailable(f"{there.path}: {error.strerror}", hint=f"ls -l {there.path}") from error
    rows.restate(session, run)


def _incomplete(folder: RunFolder, what: str) -> Damaged:
    return Damaged(f"{folder.path}: {what}", hint=f"ls -l {folder.path}")


def take_in_all(session: Session, folders: Sequence[Path], files: Files) -> tuple[str, ...]:
    """All runs of `folders`; why any was left out, a line each.

    What a killed command wrote down and could not commit counts: that was what it was asked to do, and a submission
    that may not have been made is looked for, as any other that was not answered.
    """
    left_out = []
    for path in folders:
        folder = RunFolder(path)
        try:
            take_in_run(session, folder, ledger.standing(folder), files)
        except Unavailable:
            raise
        except ClipctlError as error:
            left_out.append(error.message)
    return tuple(left_out)
