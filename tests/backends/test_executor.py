"""submitit's part of a submission: which of its internals are ours, and what it does with answers. No Slurm in it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import submitit
from submitit.core.core import PicklingExecutor
from submitit.slurm.slurm import SlurmExecutor

from clipctl.backends import executor
from clipctl.backends.executor import ScriptExecutor, submit
from clipctl.backends.slurm import SlurmBackend
from clipctl.domain import Accepted, JobIdentity, Limits, Rejected, Unknown

OVERRIDDEN = ("_make_submission_file_text", "_make_submission_command", "_get_job_id_from_submission_command")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    folder = tmp_path / "it's a $HOME"
    folder.mkdir()
    script = folder / "submission.sh"
    script.write_text("#!/bin/bash\n# Grüße\n", encoding="utf-8")
    return script


def test_submitit_still_has_what_is_overridden() -> None:
    assert submitit.__version__.startswith("1.5.")
    for name in (*OVERRIDDEN, "affinity"):
        assert name in vars(SlurmExecutor) and name in vars(ScriptExecutor)
    assert "_submit_command" in vars(PicklingExecutor) and "_submit_command" not in vars(SlurmExecutor)


def test_our_file_is_submitted_and_submitit_keeps_a_copy_and_no_pickle(script: Path) -> None:
    (script.parent / "submitit").mkdir()
    command = ["bash", "-c", 'echo "Welcome, job 12"; cat -- "$0" >sent; echo "4711;juwels"']
    assert ScriptExecutor(script, ["env", "-C", str(script.parent), *command]).submit_script() == "4711"
    assert (script.parent / "sent").read_bytes() == script.read_bytes()
    assert (script.parent / "submitit/4711_submission.sh").read_bytes() == script.read_bytes()
    assert not list(script.parent.rglob("*.pkl"))


def answered(script: Path, body: str, timeout: float = 20) -> object:
    """The answer to a program called sbatch that does what `body` says."""
    programs = script.parent / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text(f"#!/bin/bash\n{body}\n")
    (programs / "sbatch").chmod(0o755)
    return submit(script, {"PATH": f"{programs}:/usr/bin:/bin"}, timeout)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ('[ "$1" = --parsable ] && [ -z "$CLIPCTL_HOME" ] && echo 4711', Accepted(scheduler_id="4711")),
        ("echo 4711; echo trouble >&2; exit 1", Unknown(reason="sbatch: trouble")),
        ("echo job 12", Unknown(reason="sbatch left with 0, but its answer is no job id: 'job 12'")),
        ("kill -9 $$", Unknown(reason="sbatch: left with code -9")),
        (
            "echo 'sbatch: error: Batch job submission failed: Invalid qos specification' >&2; exit 1",
            Rejected(reason="Invalid qos specification"),
        ),
    ],
)
def test_answers(script: Path, capfd: pytest.CaptureFixture[str], body: str, answer: object) -> None:
    assert answered(script, body) == answer
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("trap", "reason"), [("", "no answer in time"), ("trap '' TERM", "left with code -9")], ids=["willing", "unwilling"]
)
def test_an_sbatch_that_hangs_is_ended(script: Path, monkeypatch: pytest.MonkeyPatch, trap: str, reason: str) -> None:
    monkeypatch.setattr(executor, "KILL_AFTER", 0.2)
    body = f"{trap}\necho $$ >'{script.parents[1]}/pid'\nwhile :; do sleep 0.1; done"
    assert answered(script, body, 0.5) == Unknown(reason=f"sbatch: {reason}")
    process, limit = Path("/proc", (script.parents[1] / "pid").read_text().strip()), time.monotonic() + 10
    while process.exists():  # a moment after the answer
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_what_cannot_be_read_or_written_is_not_submitted(script: Path) -> None:
    identity = JobIdentity(run="demo", run_id="abcd1234", attempt=1, nonce="00", submitted_at=0.0)
    (script.parent / "submitit").touch()
    taken = SlurmBackend(Limits()).submit(script, identity)
    assert taken == Rejected(reason=f"{script.parent}/submitit: File exists")
    script.unlink()
    missing = SlurmBackend(Limits()).submit(script, identity)
    assert missing == Rejected(reason=f"{script}: No such file or directory")
