"""Jobs on this machine. submitit starts them; whether they live is asked of /proc, since submitit's state lies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from clipctl.backends.processes import Process, boot_time, roots, scan, send
from clipctl.backends.submission import FOLDER
from clipctl.domain import (
    Accepted,
    JobHandle,
    JobIdentity,
    JobReport,
    JobState,
    QueueSnapshot,
    Rejected,
    Unknown,
    Unobservable,
)
from clipctl.errors import Unavailable
from trainer.contract import EXIT_FILE, NONCE_VARIABLE

TEN_YEARS = 10 * 365 * 24 * 60.0  # minutes; submitit's own default is two minutes
LOOK_EVERY = 0.05  # seconds
BETWEEN_LOOKS = 0.1  # seconds


class LocalBackend:
    """`patience`: seconds for a job to show up, or to die. `timeout`: minutes after which submitit loses interest."""

    def __init__(self, *, patience: float = 60.0, timeout: float = TEN_YEARS, proc: Path = Path("/proc")) -> None:
        self.patience, self.timeout, self.proc = patience, timeout, proc

    def submit(self, script: Path, identity: JobIdentity) -> Accepted | Rejected | Unknown:
        if isinstance(blind := self._scan(), Unobservable):
            return Rejected(reason=blind.reason)
        log = script.parent / FOLDER / "submission.log"
        try:
            log.parent.mkdir(mode=0o700, exist_ok=True)
            submission = _start_submission(script, identity.nonce, self.timeout, log)
        except OSError as error:
            return Rejected(reason=f"the submission could not be started: {error}")
        try:
            code = submission.wait(self.patience)
        except subprocess.TimeoutExpired:
            return Unknown(reason=f"submitit has not answered within {self.patience:g} s; see {log}")
        if code != 0:
            return Unknown(reason=f"submitit failed: {_last_line(log)}")
        return self._await(script.parent, identity.nonce)

    def _await(self, job: Path, nonce: str) -> Accepted | Unknown:
        """Until the script itself is seen, so that whoever asks next does not find the job missing."""
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            if found := self._of(nonce):
                return Accepted(scheduler_id=_id_of(found[0]))
            if (job / EXIT_FILE).exists():  # it came and went between two looks
                return Accepted(scheduler_id=f"ended@{socket.gethostname()}")
            time.sleep(LOOK_EVERY)
        return Unknown(reason=f"no process of the job showed up within {self.patience:g} s; see {job / FOLDER}")

    def poll(self, jobs: Sequence[JobIdentity]) -> QueueSnapshot | Unobservable:
        now, found = time.time(), self._scan()
        if isinstance(found, Unobservable):
            return found
        if not {job.nonce for job in jobs} <= {process.nonce for process in found}:
            time.sleep(BETWEEN_LOOKS)  # a process that is just being started shows no environment
            again = self._scan()
            found = found if isinstance(again, Unobservable) else list(dict.fromkeys([*found, *again]))
        boot, nonces = boot_time(self.proc), {process.nonce for process in found}
        reports = {nonce: _report([item for item in found if item.nonce == nonce], boot) for nonce in nonces}
        return QueueSnapshot(time=now, jobs=reports, host=socket.gethostname())

    def find(self, identity: JobIdentity) -> JobReport | Unobservable | None:
        found = self._scan()
        if isinstance(found, Unobservable):
            return found
        own = [process for process in found if process.nonce == identity.nonce]
        return _report(own, boot_time(self.proc)) if own else None

    def cancel(self, job: JobHandle, *, force: bool) -> None:
        """SIGTERM to the script, which passes it on once; `force`: SIGKILL to all, until none is left."""
        nonce = job.identity.nonce
        if not force:
            # Not to all: a rank that has already saved would die of the second copy.
            return self._signal(roots(self._of(nonce)), signal.SIGTERM)
        deadline = time.monotonic() + self.patience
        while left := self._of(nonce):
            self._signal(left, signal.SIGKILL)
            if time.monotonic() > deadline:
                pids = " ".join(str(process.pid) for process in left)
                raise Unavailable(f"processes of job {nonce} do not die: {pids}", f"ps -o pid,stat,wchan,cmd -p {pids}")
            time.sleep(LOOK_EVERY)

    def _scan(self) -> list[Process] | Unobservable:
        try:
            os.readlink(self.proc / "self")
            return scan(self.proc)
        except OSError as error:
            return Unobservable(reason=f"local jobs are observed through {self.proc} of Linux: {error.strerror}")

    def _of(self, nonce: str) -> list[Process]:
        found = self._scan()
        if isinstance(found, Unobservable):
            raise Unavailable(found.reason)
        return [process for process in found if process.nonce == nonce]

    def _signal(self, processes: Sequence[Process], number: signal.Signals) -> None:
        for process in processes:
            send(self.proc, process, number)


def _start_submission(script: Path, nonce: str, timeout: float, log: Path) -> subprocess.Popen[bytes]:
    devices = [value for name, value in os.environ.items() if name == "CUDA_VISIBLE_DEVICES"]
    module = "clipctl.backends.submission"
    environ = os.environ | {"PYTHONSAFEPATH": "1"}  # submitit's own processes would import from the working folder
    environ.pop(NONCE_VARIABLE, None)  # of a job that this was called from
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(script), nonce, str(timeout), *devices],
            cwd=script.parent,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _report(processes: Sequence[Process], boot: float) -> JobReport:
    """`processes` of one job, eldest first."""
    eldest = processes[0]
    return JobReport(
        nonce=eldest.nonce,
        scheduler_id=_id_of(eldest),
        state=JobState.RUNNING,
        raw="processes " + " ".join(str(process.pid) for process in processes),
        started_at=boot + eldest.started / os.sysconf("SC_CLK_TCK"),
    )


def _id_of(process: Process) -> str:
    return f"{process.pid}@{socket.gethostname()}"


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
