"""Have the jobs of earlier attempts ended? Asked by a job's claim, before its own ranks may start.

Under Slurm the ranks are on other hosts than the script: its exit.json can be there while they still save, and a killed
script leaves none. Slurm knows: a job is COMPLETING until its last process is gone.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from trainer.contract import EXIT_FILE, NONCE_VARIABLE, Claim

# Nothing of such a job runs. A word that is not here, of a newer Slurm perhaps, counts as running.
OVER = frozenset({
    "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "DEADLINE", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY",
    "REVOKED", "PENDING",
})  # fmt: skip
QUERY_TIMEOUT = 20.0  # seconds
SETTLE = 120.0  # seconds: more than Slurm's KillWait (30) and UnkillableStepTimeout (60) together


class Jobs(Protocol):
    look_every: float  # seconds

    def alive(self, claims: Iterable[Claim]) -> Sequence[Claim]:
        """Those whose processes may still run, as of now."""

    def words(self, claim: Claim) -> str:
        """What is known of one that may still run."""

    def ended_as(self, claim: Claim) -> str:
        """The scheduler's last word on one that is over; empty: it has none."""


def jobs_around(run_folder: Path, environ: Mapping[str, str]) -> Jobs:
    return SlurmJobs(run_folder, environ) if "SLURM_JOB_ID" in environ else JobsHere(run_folder)


class JobsHere:
    """Without a scheduler: the processes of this host."""

    look_every = 0.2

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder

    def alive(self, claims: Iterable[Claim]) -> Sequence[Claim]:
        return [claim for claim in claims if not self._ended(claim)]

    def words(self, claim: Claim) -> str:
        return f"no {EXIT_FILE} of its job {claim.nonce} on {claim.host}"

    def ended_as(self, claim: Claim) -> str:
        return ""

    def _ended(self, claim: Claim) -> bool:
        return _has_left(self.run_folder, claim) or (claim.host == socket.gethostname() and not _runs_here(claim.nonce))


class SlurmJobs:
    """What squeue says. An answer that leaves out the job that asks is none; what was found gone stays so.

    Where squeue never answers (sites that keep it from compute nodes), an exit.json that has been there for SETTLE.
    """

    look_every = 5.0

    def __init__(self, run_folder: Path, environ: Mapping[str, str], settle: float = SETTLE) -> None:
        self.run_folder, self.environ, self.settle = run_folder, environ, settle
        self.gone: set[str] = set()
        self.states: Mapping[str, str] = {}  # by id: of one user and one run that is enough
        self.answered = False
        self.trouble = ""
        self.left_since: dict[str, float] = {}

    def alive(self, claims: Iterable[Claim]) -> Sequence[Claim]:
        open_claims = [claim for claim in claims if claim.nonce not in self.gone]
        if not open_claims:
            return []
        try:
            self.states = self._ask()
            self.answered, self.trouble = True, ""
            over = {claim.nonce for claim in open_claims if self.states.get(claim.job_id, "COMPLETED") in OVER}
            waiting = {claim.nonce for claim in open_claims if self.states.get(claim.job_id) == "PENDING"}
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            self.trouble = f"squeue does not say: {error}"
            over = {claim.nonce for claim in open_claims if not self.answered and self._settled(claim)}
            waiting = set()
        self.gone |= over - waiting  # one that its site put back into the queue may start while we claim: asked again
        return [claim for claim in open_claims if claim.nonce not in over]

    def words(self, claim: Claim) -> str:
        job = f"its job {claim.nonce} (id {claim.job_id}) on {claim.host}"
        return f"{job}: {self.trouble}" if self.trouble else f"{job} is {self.states[claim.job_id]}"

    def ended_as(self, claim: Claim) -> str:
        return self.states.get(claim.job_id, "")

    def _ask(self) -> Mapping[str, str]:
        """States by id, of this user's other jobs with this job's name: those of one run."""
        name, mine = self.environ.get("SLURM_JOB_NAME", ""), self.environ["SLURM_JOB_ID"]
        command = ["squeue", "--noheader", f"--user={os.getuid()}", f"--name={name}", "--states=all"]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}  # a user's filters
        done = subprocess.run(
            [*command, "--format=%A|%T"],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=QUERY_TIMEOUT,
        )
        if done.returncode != 0:
            raise ValueError(" ".join(done.stderr.split()) or f"it left with code {done.returncode}")
        states = dict(line.split("|", 1) for line in done.stdout.splitlines() if "|" in line)
        if states.pop(mine, None) is None:
            raise ValueError(f"its answer leaves out job {mine}, which asks")
        return states

    def _settled(self, claim: Claim) -> bool:
        if not _has_left(self.run_folder, claim):
            return False
        now = time.monotonic()
        return now - self.left_since.setdefault(claim.nonce, now) >= self.settle


def _has_left(run_folder: Path, claim: Claim) -> bool:
    """Listed, not stat'ed: NFS clients remember what did not exist."""
    job = run_folder / "jobs" / claim.nonce
    return job.is_dir() and EXIT_FILE in os.listdir(job)


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
