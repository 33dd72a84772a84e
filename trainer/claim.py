"""Who may run an attempt: `python -P -m trainer.claim ATTEMPT_FOLDER`, once a job, before any of its ranks starts.

Two jobs can meet over one attempt, or over two attempts of one run: a submission that seemed to fail, a site that
requeues by force, a successor that starts while its predecessor still saves. One goes on, the others leave with
ExitCode.FENCED within seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from trainer.contract import (
    ATTEMPT_FILE,
    CLAIM_FILE,
    EXIT_FILE,
    JOB_FILE,
    NONCE_VARIABLE,
    SCHEMA,
    Attempt,
    Claim,
    ExitCode,
    Job,
    dumps,
    loads,
    sync_folder,
    write_atomic,
)
from trainer.origin import refuse_foreign

T = TypeVar("T", Attempt, Claim, Job)

LOOK_EVERY = 0.2  # seconds


class Fenced(Exception):
    """This job must not run the attempt, and must not be started again."""


def main(arguments: list[str]) -> int:
    refuse_foreign()
    parser = argparse.ArgumentParser(prog="trainer.claim")
    parser.add_argument("attempt", type=Path)
    parser.add_argument("--wait", type=float, default=600.0, help="seconds for an earlier attempt's job to end")
    options = parser.parse_args(arguments)
    try:
        claim(options.attempt.resolve(), os.environ, wait=options.wait)
    except Fenced as error:
        print(f"fenced: {error}", file=sys.stderr)
        return ExitCode.FENCED
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.REFUSED if isinstance(error, (ValueError, FileNotFoundError)) else ExitCode.CRASHED
    return ExitCode.COMPLETED


def claim(folder: Path, environ: Mapping[str, str], *, wait: float) -> None:
    """Takes the attempt in `folder` for this environment's job, or raises Fenced (OSError, ValueError: no attempt)."""
    nonce = environ.get(NONCE_VARIABLE, "")
    _check_issued(folder, nonce)
    deadline = time.monotonic() + wait
    # Before: a predecessor that is still saving may publish its checkpoint until we take over.
    _check_newest(folder)
    _await_predecessors(folder, environ, deadline)
    _take(folder, _claim_of(nonce, environ))
    # And after: of two attempts that come at the same moment, at least one now sees the other's claim.
    try:
        _check_newest(folder)
        _await_predecessors(folder, environ, deadline)
    except Fenced:
        (folder / CLAIM_FILE).unlink(missing_ok=True)  # or the one that goes on would no longer hold its own
        raise


def still_mine(folder: Path, nonce: str) -> bool:
    """Does the job with `nonce` hold the attempt, and is no later one claimed? Asked before anything is published."""
    try:
        held = loads(Claim, (folder / CLAIM_FILE).read_bytes())
    except FileNotFoundError:
        return False
    current = held.nonce == nonce and held.restart_count == _restart_count(os.environ)
    return current and not any(number > int(folder.name) for number in _claimed(folder))


def job_folder(attempt_folder: Path, nonce: str) -> Path:
    return attempt_folder.parent.parent / "jobs" / nonce


# --- may it ----------------------------------------------------------------------------------------


def _check_issued(folder: Path, nonce: str) -> None:
    attempt = _read(Attempt, folder / ATTEMPT_FILE)
    if not nonce or Path(nonce).name != nonce:
        raise Fenced(f"{NONCE_VARIABLE} is {nonce!r}: an attempt is run by the job that clipctl submitted for it")
    try:
        job = _read(Job, job_folder(folder, nonce) / JOB_FILE)
    except FileNotFoundError:
        raise Fenced(f"job {nonce} was not issued for run {attempt.run}: it has no {JOB_FILE}") from None
    if (job.nonce, job.run, job.attempt) != (nonce, attempt.run, int(folder.name)):
        raise Fenced(f"job {nonce} was issued for attempt {job.attempt} of run {job.run}, not for {folder}")


def _check_newest(folder: Path) -> None:
    if later := [number for number in _claimed(folder) if number > int(folder.name)]:
        raise Fenced(f"attempt {max(later)} of this run is claimed already; {folder.name} is over")


def _await_predecessors(folder: Path, environ: Mapping[str, str], deadline: float) -> None:
    for number in (number for number in _claimed(folder) if number < int(folder.name)):
        held = _read(Claim, folder.parent / str(number) / CLAIM_FILE)
        while not _ended(job_folder(folder, held.nonce), held, environ):
            if time.monotonic() >= deadline:
                raise Fenced(f"attempt {number} has not ended: no {EXIT_FILE} of its job {held.nonce} on {held.host}")
            time.sleep(LOOK_EVERY)


def _ended(job: Path, held: Claim, environ: Mapping[str, str]) -> bool:
    if job.is_dir() and EXIT_FILE in os.listdir(job):
        return True
    # Under Slurm the ranks are on other hosts than the script; without it they are here, or were.
    return "SLURM_JOB_ID" not in environ and held.host == socket.gethostname() and not _runs_here(held.nonce)


def _runs_here(nonce: str) -> bool:
    """Any process of ours with that nonce; True where the system cannot tell."""
    mark = f"{NONCE_VARIABLE}={nonce}".encode()
    if not os.path.exists("/proc/self/environ"):
        return True
    return any(mark in environ.split(b"\0") for environ in _environments())


def _environments() -> Iterator[bytes]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield Path("/proc", name, "environ").read_bytes()
        except OSError:  # gone meanwhile, or somebody else's
            continue


# --- taking it -------------------------------------------------------------------------------------


def _take(folder: Path, mine: Claim) -> None:
    """A hard link is made exclusively, as O_EXCL is, and the claim is whole at the moment it exists."""
    temporary = folder / f".{CLAIM_FILE}.{mine.nonce}.{mine.host}.{os.getpid()}.tmp"
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(dumps(mine))
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, folder / CLAIM_FILE)
        sync_folder(folder)
    except FileExistsError:
        _take_again(folder, mine)
    finally:
        temporary.unlink(missing_ok=True)


def _take_again(folder: Path, mine: Claim) -> None:
    """The same job with the same or a higher restart count was started again by its site; any other came too late."""
    held = _read(Claim, folder / CLAIM_FILE)
    if (held.nonce, held.job_id) != (mine.nonce, mine.job_id):
        raise Fenced(f"attempt {folder.name} is held by job {held.nonce} (id {held.job_id}) on {held.host}")
    if mine.restart_count < held.restart_count:
        raise Fenced(f"attempt {folder.name} is held by restart {held.restart_count} of this job on {held.host}")
    (job_folder(folder, mine.nonce) / EXIT_FILE).unlink(missing_ok=True)  # of the start before
    write_atomic(folder / CLAIM_FILE, dumps(mine))


def _claim_of(nonce: str, environ: Mapping[str, str]) -> Claim:
    return Claim(
        nonce=nonce,
        job_id=environ.get("SLURM_JOB_ID") or str(os.getppid()),
        restart_count=_restart_count(environ),
        host=socket.gethostname(),
        time=time.time(),
    )


def _restart_count(environ: Mapping[str, str]) -> int:
    return int(environ.get("SLURM_RESTART_COUNT") or 0)


# --- files -----------------------------------------------------------------------------------------


def _claimed(folder: Path) -> list[int]:
    """The numbers of this run's claimed attempts. Listed, not stat'ed: NFS clients remember what did not exist."""
    numbers = sorted(map(int, filter(str.isdigit, os.listdir(folder.parent))))
    return [number for number in numbers if CLAIM_FILE in os.listdir(folder.parent / str(number))]


def _read(kind: type[T], path: Path) -> T:
    text = path.read_bytes()
    try:
        if json.loads(text).get("schema", SCHEMA) > SCHEMA:  # first: a newer one may not even parse
            raise Fenced(f"{path} was written by a newer clipctl; this one knows schema {SCHEMA}")
        return loads(kind, text)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
