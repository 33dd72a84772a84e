"""submitit's way to sbatch with our own script. Four of its internals are overridden; a test holds them.

What submitit's would do is unsafe here: it renders a script of its own, sets no time limit, lets SBATCH_* of whoever
calls override the script, takes any `job 123` on standard output for its job, and calls every failure a refusal.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from clipctl.backends.sbatch import job_id, understood
from clipctl.backends.submission import FOLDER
from clipctl.backends.transport import Completed, with_only
from clipctl.domain import Accepted, Rejected, Unknown

KILL_AFTER = 10  # seconds that sbatch has once its time is up


class ScriptExecutor(SlurmExecutor):
    """Submits the very file `script`; what submitit writes goes to its folder `submitit`."""

    def __init__(self, script: Path, command: Sequence[str]) -> None:
        super().__init__(script.parent / FOLDER)
        self._script, self._command = script, command

    def submit_script(self) -> str:
        """The job's id. FailedJobError, FailedSubmissionError; OSError."""
        return str(self._submit_command("").job_id)  # straight there: nothing is pickled

    @classmethod
    def affinity(cls) -> int:
        return 1  # whether there is an sbatch, env is going to say

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self._script.read_text(encoding="utf-8")

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return [*self._command, str(self._script)]

    @staticmethod
    def _get_job_id_from_submission_command(string: str | bytes) -> str:
        text = string if isinstance(string, str) else string.decode(errors="replace")
        if (found := job_id(text)) is None:
            raise FailedSubmissionError(text)
        return found


def submit(script: Path, environment: Mapping[str, str], timeout: float) -> Accepted | Rejected | Unknown:
    """`environment`: all that sbatch sees. `timeout` in seconds; coreutils' own, which also takes sbatch out of the
    terminal's process group: a Ctrl-C ends clipctl and not, half-way, the submission."""
    command = [*with_only(environment), "timeout", f"--kill-after={KILL_AFTER}", f"{timeout:g}", "sbatch", "--parsable"]
    try:
        executor = ScriptExecutor(script, command)
        executor.folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        return Rejected(reason=f"{error.filename}: {error.strerror}")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises, too
            return Accepted(scheduler_id=executor.submit_script())
    except (FailedJobError, FailedSubmissionError) as error:
        return understood(_said(error))
    except (OSError, UnicodeError) as error:  # before or after sbatch answered
        return Unknown(reason=f"the submission was cut short: {error}")


def _said(error: Exception) -> Completed:
    """What sbatch left, from submitit's exceptions. One without a cause: it left with 0, and its text says nothing."""
    cause = error.__cause__
    if isinstance(cause, subprocess.CalledProcessError):
        return Completed(code=cause.returncode, out=cause.output, err=cause.stderr)
    return Completed(code=0, out=str(error))
