"""A job that stood by in the queue: where it goes on, and after which ends it refuses to."""

from __future__ import annotations

import json
import os
import signal
import zipfile

import pytest

from tests.local.desk import TRAIN, Desk
from tests.local.test_claim import claim, hold, holder, leave, outcome
from trainer import contract
from trainer.claim import still_mine
from trainer.contract import Attempt, CheckpointManifest, Exit, ExitCode, Parent, Precision, Stream
from trainer.pruning import parents
from trainer.verify import digest, manifest_path

USR1, TERM = signal.SIGUSR1, signal.SIGTERM
STOPPED = {"kind": "stopped", "seq": 1, "signal": int(USR1)}


def before(desk: Desk, *last: dict[str, object], scheduler: str = "") -> Parent:
    """Attempt 1, its checkpoint at step 7, its last word, and its end. The checkpoint."""
    hold(desk, "n1", 1)
    checkpoint = save(desk, 1, step=7)
    desk.folder.attempt(1).events.write_text("".join(json.dumps(event) + "\n" for event in last))
    desk.job("n1").exit.write_text(contract.dumps(Exit(code=0, time=0.0, scheduler=scheduler)))
    return checkpoint


def save(desk: Desk, attempt: int, *, step: int) -> Parent:
    path = desk.folder.attempt(attempt).steps / f"step_{step}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights", os.urandom(64))
    manifest = CheckpointManifest(
        file=path.name, size=path.stat().st_size, digest=digest(path), run="demo", attempt=attempt, epochs_done=0,
        step=step, step_in_epoch=step, samples_seen=16 * step, loss=1.0, finite=True, precision=Precision.FP32,
        stream=Stream(batch_size=8, ranks=2, workers=0), time=0.0,
    )  # fmt: skip
    manifest_path(path).write_text(contract.dumps(manifest))
    name = desk.folder.relative(path)
    return Parent(path=name, digest=manifest.digest, step=step, samples_seen=16 * step)


def standing_by(desk: Desk, job: str = "n2", attempt: int = 2, after: int = 1) -> None:
    folder = desk.attempt(attempt)
    folder.attempt.write_text(contract.dumps(Attempt(run="demo", number=attempt, ranks=2, train=TRAIN, after=after)))
    desk.issue(job, attempt)


def said_no(desk: Desk, words: str) -> None:
    code, said = outcome(claim(desk, "n2", 2))
    assert (code, said.count("\n")) == (ExitCode.FENCED, 1)
    assert words in said
    assert not desk.folder.attempt(2).claim.exists()


def test_after_a_stop_with_a_checkpoint_it_goes_on_from_that_very_step(desk: Desk) -> None:
    before(desk, STOPPED)
    newest = save(desk, 1, step=12)
    standing_by(desk)

    assert outcome(claim(desk, "n2", 2)) == (ExitCode.COMPLETED, "")
    assert holder(desk, 2).parent == newest


def test_a_damaged_checkpoint_is_passed_over(desk: Desk) -> None:
    whole = before(desk, STOPPED)
    with open(desk.folder.resolve(save(desk, 1, step=12).path), "r+b") as file:
        file.seek(40)
        file.write(b"\xff\xff")
    standing_by(desk)

    outcome(claim(desk, "n2", 2))
    assert holder(desk, 2).parent == whole


def test_without_any_checkpoint_of_its_predecessor_it_leaves(desk: Desk) -> None:
    """Another start for nothing is what a budget is for."""
    before(desk, STOPPED)
    for file in desk.folder.attempt(1).steps.iterdir():
        file.unlink()
    standing_by(desk)

    said_no(desk, "left no whole checkpoint")


@pytest.mark.parametrize("word", ["diverged", "crashed", "completed"])
def test_after_any_other_last_word_policy_speaks_first(word: str, desk: Desk) -> None:
    before(desk, STOPPED | {"kind": word}, scheduler="JobState=FAILED PreemptTime=2026-01-01T00:00:00")
    standing_by(desk)

    said_no(desk, f"attempt 1 has {word}: policy speaks first")


def test_after_no_word_at_all_policy_speaks_first(desk: Desk) -> None:
    before(desk, {"kind": "progress", "seq": 1}, scheduler="JobState=FAILED PreemptTime=None")
    standing_by(desk)

    said_no(desk, "ended without a word")


def test_a_preemption_needs_no_last_word(desk: Desk) -> None:
    before(desk, scheduler="JobState=FAILED PreemptTime=2026-01-01T00:00:00 AccrueTime=Unknown")
    standing_by(desk)

    assert outcome(claim(desk, "n2", 2))[0] == ExitCode.COMPLETED


def test_a_stop_that_nobody_explains_is_not_taken_for_leave(desk: Desk) -> None:
    """scancel sends TERM, too."""
    before(desk, STOPPED | {"signal": int(TERM)}, scheduler="JobState=COMPLETING PreemptTime=None")
    standing_by(desk)

    said_no(desk, "the scheduler does not say why")


@pytest.mark.parametrize(
    ("state", "word", "code"),
    [
        ("TIMEOUT", None, ExitCode.COMPLETED),
        ("PREEMPTED", None, ExitCode.COMPLETED),
        ("TIMEOUT", USR1, ExitCode.COMPLETED),
        ("FAILED", USR1, ExitCode.COMPLETED),  # what Slurm makes of exit code 85
        ("FAILED", TERM, ExitCode.COMPLETED),
        ("CANCELLED", USR1, ExitCode.FENCED),
        ("CANCELLED", TERM, ExitCode.FENCED),
        ("NODE_FAIL", None, ExitCode.FENCED),
        ("OUT_OF_MEMORY", None, ExitCode.FENCED),
        ("FAILED", None, ExitCode.FENCED),
        ("COMPLETED", None, ExitCode.FENCED),
        ("PENDING", USR1, ExitCode.FENCED),  # its site starts it again
    ],
)
def test_under_slurm_the_queue_has_a_say(state: str, word: int | None, code: ExitCode, desk: Desk) -> None:
    before(desk, *([STOPPED | {"signal": int(word)}] if word else []))
    standing_by(desk)
    squeue = desk.root / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f"#!/bin/sh\nprintf '4711|{state}\\n8|RUNNING\\n'\n")
    squeue.chmod(0o755)
    path = f"{squeue.parent}:{os.environ['PATH']}"

    assert outcome(claim(desk, "n2", 2, SLURM_JOB_ID="8", PATH=path))[0] == code


def test_the_checkpoint_that_it_goes_on_from_is_never_pruned(desk: Desk) -> None:
    whole = before(desk, STOPPED)
    standing_by(desk)
    assert parents(desk.folder.path / "attempts") == frozenset()
    outcome(claim(desk, "n2", 2))
    assert parents(desk.folder.path / "attempts") == {desk.folder.resolve(whole.path)}


# --- withdrawn ---------------------------------------------------------------------------------------


def withdraw(desk: Desk, job: str) -> None:
    (desk.job(job).path / contract.WITHDRAWN_FILE).touch()


def test_one_that_was_withdrawn_never_starts(desk: Desk) -> None:
    before(desk, STOPPED)
    standing_by(desk)
    withdraw(desk, "n2")

    said_no(desk, "was withdrawn")


def test_one_that_is_withdrawn_while_it_waits_does_not_start(desk: Desk) -> None:
    before(desk, STOPPED)
    desk.job("n1").exit.unlink()
    standing_by(desk)
    waiting = claim(desk, "n2", 2, wait=60)
    assert waiting.stdout and b"attempt 1 has not ended" in waiting.stdout.readline()
    withdraw(desk, "n2")
    leave(desk, "n1")

    assert outcome(waiting)[0] == ExitCode.FENCED
    assert not desk.folder.attempt(2).claim.exists()


def test_what_a_withdrawn_one_saves_is_not_published(desk: Desk) -> None:
    before(desk, STOPPED)
    standing_by(desk)
    outcome(claim(desk, "n2", 2))
    assert still_mine(desk.folder.attempt(2).path, desk.nonce("n2"))
    withdraw(desk, "n2")
    assert not still_mine(desk.folder.attempt(2).path, desk.nonce("n2"))


# --- others in between -------------------------------------------------------------------------------


def test_an_attempt_that_started_in_between_is_not_jumped_over(desk: Desk) -> None:
    before(desk, STOPPED)
    hold(desk, "n3", 2)
    leave(desk, "n3")
    standing_by(desk, "n2", attempt=3)
    code, said = outcome(claim(desk, "n2", 3))

    assert code == ExitCode.FENCED and "stood by for 1, and the last one that started is 2" in said


def test_a_start_that_the_site_forced_keeps_the_parent(desk: Desk) -> None:
    """By then nobody may know any more how the attempt before it ended."""
    before(desk, STOPPED)
    standing_by(desk)
    outcome(claim(desk, "n2", 2, SLURM_JOB_ID="8", PATH=quiet(desk)))
    parent = holder(desk, 2).parent
    desk.folder.attempt(1).events.unlink()

    assert outcome(claim(desk, "n2", 2, SLURM_JOB_ID="8", SLURM_RESTART_COUNT="1", PATH=quiet(desk)))[0] == 0
    assert (holder(desk, 2).restart_count, holder(desk, 2).parent) == (1, parent)


def quiet(desk: Desk) -> str:
    """A node on which squeue lists this very job alone: it has forgotten the one before."""
    squeue = desk.root / "quiet" / "squeue"
    squeue.parent.mkdir(exist_ok=True)
    squeue.write_text("#!/bin/sh\necho '8|RUNNING'\n")
    squeue.chmod(0o755)
    return f"{squeue.parent}:{os.environ['PATH']}"
