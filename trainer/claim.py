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
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from trainer.contract import (
    ATTEMPT_FILE,
    CLAIM_FILE,
    EXIT_FILE,
    FINAL_EVENTS,
    JOB_FILE,
    NONCE_VARIABLE,
    SCHEMA,
    WITHDRAWN_FILE,
    Attempt,
    Claim,
    EventKind,
    ExitCode,
    Job,
    Parent,
    dumps,
    loads,
    sync_folder,
    write_atomic,
)
from trainer.origin import refuse_foreign
from trainer.outcome import last_word
from trainer.predecessor import Jobs, jobs_around
from trainer.resume import newest_own
from trainer.successor import objection

T = TypeVar("T", Attempt, Claim, Job)


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
    attempt = _check_issued(folder, nonce)
    jobs, deadline = jobs_around(folder.parent.parent, environ), time.monotonic() + wait
    # Before: a predecessor that is still saving may publish its checkpoint until we take over.
    _check_wanted(folder, nonce)
    _await_predecessors(folder, jobs, deadline)
    mine = replace(_claim_of(nonce, environ), parent=_parent(folder, attempt, jobs))
    _take(folder, mine)
    # And after: of two attempts that come at the same moment, at least one now sees the other's claim.
    try:
        _check_wanted(folder, nonce)
        _await_predecessors(folder, jobs, deadline)
    except Fenced:
        (folder / CLAIM_FILE).unlink(missing_ok=True)  # or the one that goes on would no longer hold its own
        raise
    restart = f", restart {mine.restart_count}" if mine.restart_count else ""
    print(f"attempt {folder.name} is held by this job, {mine.nonce} (id {mine.job_id}{restart}) on {mine.host}")


def still_mine(folder: Path, nonce: str) -> bool:
    """Does the job with `nonce` hold the attempt, and is no later one claimed? Asked before anything is published."""
    try:
        held = loads(Claim, (folder / CLAIM_FILE).read_bytes())
    except FileNotFoundError:
        return False
    current = held.nonce == nonce and held.restart_count == _restart_count(os.environ)
    if not current or _withdrawn(folder, nonce):
        return False
    return not any(number > int(folder.name) for number in _claimed(folder))


def job_folder(attempt_folder: Path, nonce: str) -> Path:
    return attempt_folder.parent.parent / "jobs" / nonce


# --- may it ----------------------------------------------------------------------------------------


def _check_issued(folder: Path, nonce: str) -> Attempt:
    attempt = _read(Attempt, folder / ATTEMPT_FILE)
    if not nonce or Path(nonce).name != nonce:
        raise Fenced(f"{NONCE_VARIABLE} is {nonce!r}: an attempt is run by the job that clipctl submitted for it")
    try:
        job = _read(Job, job_folder(folder, nonce) / JOB_FILE)
    except FileNotFoundError:
        raise Fenced(f"job {nonce} was not issued for run {attempt.run}: it has no {JOB_FILE}") from None
    if (job.nonce, job.run, job.attempt) != (nonce, attempt.run, int(folder.name)):
        raise Fenced(f"job {nonce} was issued for attempt {job.attempt} of run {job.run}, not for {folder}")
    return attempt


def _check_wanted(folder: Path, nonce: str) -> None:
    if _withdrawn(folder, nonce):
        raise Fenced(f"job {nonce} was withdrawn: it must not start")
    if later := [number for number in _claimed(folder) if number > int(folder.name)]:
        raise Fenced(f"attempt {max(later)} of this run is claimed already; {folder.name} is over")


def _await_predecessors(folder: Path, jobs: Jobs, deadline: float) -> None:
    earlier = _earlier_claims(folder)
    said = ""
    while alive := jobs.alive(earlier.values()):
        number = next(number for number, held in earlier.items() if held is alive[0])
        words = f"attempt {number} has not ended: {jobs.words(alive[0])}"
        if (left := deadline - time.monotonic()) <= 0:
            raise Fenced(words)
        if words != said:
            print(f"waiting, {words}", flush=True)
            said = words
        time.sleep(min(jobs.look_every, left))


def _parent(folder: Path, attempt: Attempt, jobs: Jobs) -> Parent | None:
    """Of a job that stood by: the newest whole checkpoint of the attempt before, unless policy has to speak first."""
    if attempt.after is None:
        return None
    if CLAIM_FILE in os.listdir(folder):  # this very job, started again by its site; another's is not taken over
        return _claim_in(folder).parent
    held = _earlier_claims(folder)
    if (last := max(held, default=0)) != attempt.after:
        raise Fenced(f"attempt {folder.name} stood by for {attempt.after}, and the last one that started is {last}")
    before, claim = folder.parent / str(attempt.after), held[attempt.after]
    if why := objection(before, job_folder(before, claim.nonce), jobs.ended_as(claim)):
        raise Fenced(f"attempt {before.name} {why}: policy speaks first")
    parent = newest_own(before)
    if parent is None:  # nothing was gained: what another start costs is policy's to say
        raise Fenced(f"attempt {before.name} left no whole checkpoint: policy speaks first")
    return parent


def _earlier_claims(folder: Path) -> dict[int, Claim]:
    """By attempt. One that is withdrawn between the listing and the reading gave way to a later attempt: to us."""
    found = {}
    for number in (number for number in _claimed(folder) if number < int(folder.name)):
        with suppress(FileNotFoundError):
            found[number] = _claim_in(folder.parent / str(number))
    return found


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
    held = _claim_in(folder)
    if (held.nonce, held.job_id) != (mine.nonce, mine.job_id):
        raise Fenced(f"attempt {folder.name} is held by job {held.nonce} (id {held.job_id}) on {held.host}")
    if mine.restart_count < held.restart_count:
        raise Fenced(f"attempt {folder.name} is held by restart {held.restart_count} of this job on {held.host}")
    word = last_word(folder)
    if word in FINAL_EVENTS - {EventKind.STOPPED}:
        raise Fenced(f"attempt {folder.name} has {word}: a site may start its job again, but policy speaks first")
    (job_folder(folder, mine.nonce) / EXIT_FILE).unlink(missing_ok=True)  # of the start before
    write_atomic(folder / CLAIM_FILE, dumps(mine))


def _claim_of(nonce: str, environ: Mapping[str, str]) -> Claim:
    return Claim(
        nonce=nonce,
        job_id=environ.get("SLURM_JOB_ID") or str(os.getppid()),
        restart_count=_restart_count(environ),
        host=environ.get("SLURMD_NODENAME") or socket.gethostname(),
        time=time.time(),
    )


def _restart_count(environ: Mapping[str, str]) -> int:
    return int(environ.get("SLURM_RESTART_COUNT") or 0)


def _withdrawn(folder: Path, nonce: str) -> bool:
    """Listed, not stat'ed, as below."""
    job = job_folder(folder, nonce)
    return job.is_dir() and WITHDRAWN_FILE in os.listdir(job)


# --- files -----------------------------------------------------------------------------------------


def _claimed(folder: Path) -> list[int]:
    """The numbers of this run's claimed attempts. Listed, not stat'ed: NFS clients remember what did not exist."""
    numbers = sorted(map(int, filter(str.isdigit, os.listdir(folder.parent))))
    return [number for number in numbers if CLAIM_FILE in os.listdir(folder.parent / str(number))]


def _claim_in(folder: Path) -> Claim:
    return _read(Claim, folder / CLAIM_FILE)


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
