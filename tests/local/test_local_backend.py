"""Local jobs, with real processes: what is killed, what survives, and what /proc says about it."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import sys
import time
from pathlib import Path

import pytest

from clipctl.backends.local import LocalBackend
from clipctl.backends.processes import Process, send
from clipctl.domain import Accepted, JobState, Limits, QueueSnapshot, Rejected, Unknown, Unobservable
from tests.local.desk import PROC, SUBMITTING, TRAINING, Desk, eventually
from trainer.contract import NONCE_VARIABLE, Exit, ExitCode


@pytest.fixture
def backend() -> LocalBackend:
    return LocalBackend()


@pytest.fixture
def training(desk: Desk, backend: LocalBackend) -> Desk:
    """A job `n1` whose two ranks train."""
    desk.rank(TRAINING)
    desk.submit("n1", desk.script("n1"))
    desk.ready()
    return desk


def jobs(backend: LocalBackend, desk: Desk) -> dict[str, JobState]:
    answer = backend.poll([])
    assert isinstance(answer, QueueSnapshot)
    known = {nonce: nonce.partition("-") for nonce in answer.jobs}
    return {job: answer.jobs[nonce].state for nonce, (job, _, tag) in known.items() if tag == desk.tag}


def stopped(desk: Desk, job: str = "n1") -> Exit:
    """Ends the job the gentle way and says how it ended."""
    LocalBackend().cancel(desk.handle(job), force=False)
    return desk.exit(job)


def test_a_job_is_seen_as_soon_as_it_is_accepted(desk: Desk, backend: LocalBackend) -> None:
    desk.rank(TRAINING)
    before = time.time()
    answer = backend.submit(desk.script("n1"), desk.identity("n1"))
    report = backend.find(desk.identity("n1"))

    assert isinstance(answer, Accepted)
    assert report is not None and not isinstance(report, Unobservable)
    assert report.scheduler_id == answer.scheduler_id
    assert jobs(backend, desk) == {"n1": JobState.RUNNING}
    assert report.started_at is not None and abs(report.started_at - before) < 60
    desk.ready()
    assert stopped(desk).code == ExitCode.STOPPED


def test_all_own_jobs_come_from_one_look(desk: Desk, backend: LocalBackend) -> None:
    desk.rank(TRAINING)
    for number in (1, 2):
        desk.attempt(number)
    desk.submit("n1", desk.script("n1"))
    desk.submit("n2", desk.script("n2", attempt=2, ranks=1), attempt=2)  # its claim waits for n1's end

    assert jobs(backend, desk) == {"n1": JobState.RUNNING, "n2": JobState.RUNNING}
    desk.ready()
    assert stopped(desk).code == ExitCode.STOPPED
    desk.ready(1, attempt=2)
    assert stopped(desk, "n2").code == ExitCode.STOPPED


def test_a_job_that_is_over_at_once_was_accepted_all_the_same(desk: Desk, backend: LocalBackend) -> None:
    script = desk.script("n1")
    script.write_text(f'#!/bin/bash\necho \'{{"code": 0, "time": 1}}\' > "{desk.job("n1").exit.name}"\n')

    assert isinstance(backend.submit(script, desk.identity("n1")), Accepted)


def test_two_ranks_train_and_stop_with_a_checkpoint_when_asked(training: Desk, backend: LocalBackend) -> None:
    backend.cancel(training.handle("n1"), force=False)

    assert training.exit("n1").code == ExitCode.STOPPED
    for rank in (0, 1):  # one SIGTERM each: a second one could hit a rank that has saved and is leaving
        assert training.log("n1", f"rank_{rank}").splitlines() == ["training", "told 15", "saved after 1"]
    eventually(lambda: jobs(backend, training) == {})


# --- what survives ----------------------------------------------------------------------------------


def test_a_job_outlives_the_command_line_that_launched_it(desk: Desk, backend: LocalBackend) -> None:
    """Its output ends too: nothing of the job may hold on to the pipe of `clipctl launch | tee log`."""
    desk.rank(TRAINING)
    cli = desk.start(sys.executable, "-c", SUBMITTING, desk.script("n1"), desk.nonce("n1"))
    out, err = cli.communicate(timeout=60)

    assert out.startswith(b"Accepted"), err
    desk.ready()
    assert jobs(backend, desk) == {"n1": JobState.RUNNING}
    assert stopped(desk).code == ExitCode.STOPPED


@pytest.mark.parametrize("ending", ["ctrl-c", "terminal closed", "kill -9"])
def test_a_job_outlives_the_one_who_follows_it(ending: str, desk: Desk, backend: LocalBackend) -> None:
    desk.rank(TRAINING)
    script = desk.script("n1")
    pid, terminal = in_a_terminal(sys.executable, "-c", SUBMITTING, str(script), desk.nonce("n1"), "stay")
    desk.ready()
    if ending == "ctrl-c":
        eventually(lambda: b"Accepted" in os.read(terminal, 4096))
        os.write(terminal, b"\x03")
    elif ending == "terminal closed":
        os.close(terminal)
    else:
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if ending != "terminal closed":
        os.close(terminal)

    expected = {"ctrl-c": signal.SIGINT, "terminal closed": signal.SIGHUP, "kill -9": signal.SIGKILL}[ending]
    assert os.WTERMSIG(status) == expected
    assert jobs(backend, desk) == {"n1": JobState.RUNNING}
    assert stopped(desk).code == ExitCode.STOPPED
    assert "saved after 1" in desk.log("n1", "rank_0")


def test_a_ctrl_c_in_the_middle_of_the_submission_does_not_cut_it_in_two(desk: Desk, backend: LocalBackend) -> None:
    desk.rank(TRAINING)
    script = desk.script("n1")
    pid, terminal = in_a_terminal(sys.executable, "-c", SUBMITTING, str(script), desk.nonce("n1"), "stay")
    eventually(lambda: commands(desk, "clipctl.backends.submission"))
    os.write(terminal, b"\x03")
    os.waitpid(pid, 0)
    os.close(terminal)

    desk.ready()  # the intent was committed before: a look-up finds the job
    assert stopped(desk).code == ExitCode.STOPPED


def test_a_job_outlives_submitits_controller(training: Desk, backend: LocalBackend) -> None:
    for pid in controllers(training):
        os.kill(pid, signal.SIGKILL)

    eventually(lambda: not controllers(training))
    assert jobs(backend, training) == {"n1": JobState.RUNNING}
    assert stopped(training).code == ExitCode.STOPPED


def test_a_job_outlives_submitits_time_limit(desk: Desk, backend: LocalBackend) -> None:
    """Three seconds here, and the job goes on without a controller; `make soak` waits for longer than three minutes."""
    desk.rank(TRAINING)
    desk.submit("n1", desk.script("n1"), timeout=0.05)
    desk.ready()
    eventually(lambda: not controllers(desk))

    assert jobs(backend, desk) == {"n1": JobState.RUNNING}
    assert stopped(desk).code == ExitCode.STOPPED


def test_submitit_is_told_to_wait_for_years(training: Desk) -> None:
    environ = Path(f"/proc/{controllers(training)[0]}/environ").read_bytes().split(b"\0")
    told = dict(item.split(b"=", 1) for item in environ if b"=" in item)

    assert int(told[b"SUBMITIT_LOCAL_TIMEOUT_S"]) > 5 * 365 * 24 * 3600
    assert NONCE_VARIABLE.encode() not in told  # a controller that lingers is not the job
    assert stopped(training).code == ExitCode.STOPPED


@pytest.mark.timeout(600)
def test_a_job_runs_longer_than_submitits_default(desk: Desk, backend: LocalBackend, soak: object) -> None:
    desk.rank(TRAINING)
    desk.submit("n1", desk.script("n1"))
    desk.ready()
    end = time.monotonic() + soak(1, 200)  # type: ignore[operator]
    while time.monotonic() < end:
        assert jobs(backend, desk) == {"n1": JobState.RUNNING}
        assert controllers(desk)
        time.sleep(0.5)

    assert stopped(desk).code == ExitCode.STOPPED


# --- what dies, and what is said then ----------------------------------------------------------------


def test_kill_9_of_the_script_leaves_the_ranks_and_they_count(training: Desk, backend: LocalBackend) -> None:
    script = training.of("n1")[0]
    os.kill(script.pid, signal.SIGKILL)
    eventually(lambda: script.pid not in [process.pid for process in training.of("n1")])

    assert jobs(backend, training) == {"n1": JobState.RUNNING}
    backend.cancel(training.handle("n1"), force=False)  # reaches the ranks all the same
    eventually(lambda: jobs(backend, training) == {})
    assert "saved after 1" in training.log("n1", "rank_0")
    assert not training.job("n1").exit.exists()  # nobody was left to write it


def test_kill_9_of_one_rank_ends_the_others_and_the_job_says_so(desk: Desk, backend: LocalBackend) -> None:
    desk.rank(TRAINING.replace("while not told", "while True"))  # the others hang, as in a collective
    desk.submit("n1", desk.script("n1", limits=Limits(rank_grace=0.5)))
    desk.ready()
    os.kill(rank_of(desk, "n1", 1), signal.SIGKILL)

    assert desk.exit("n1").code == 128 + signal.SIGKILL
    assert "rank 1 was killed by SIGKILL; 1 others have 0.5 s" in desk.log("n1")
    eventually(lambda: jobs(backend, desk) == {})


def test_kill_9_of_all_ranks(training: Desk, backend: LocalBackend) -> None:
    for pid in [rank_of(training, "n1", rank) for rank in (0, 1)]:
        os.kill(pid, signal.SIGKILL)

    assert training.exit("n1").code == 128 + signal.SIGKILL
    eventually(lambda: jobs(backend, training) == {})


def test_kill_9_of_every_process_leaves_silence_not_lies(training: Desk, backend: LocalBackend) -> None:
    backend.cancel(training.handle("n1"), force=True)

    assert jobs(backend, training) == {}
    assert backend.find(training.identity("n1")) is None
    assert not training.job("n1").exit.exists()


def test_a_gentle_cancel_that_is_not_heard_is_followed_by_force(desk: Desk, backend: LocalBackend) -> None:
    desk.rank(TRAINING.replace("while not told", "while True"))
    desk.submit("n1", desk.script("n1"))
    desk.ready()
    backend.cancel(desk.handle("n1"), force=False)
    eventually(lambda: "told 15" in desk.log("n1", "rank_0"))
    assert jobs(backend, desk) == {"n1": JobState.RUNNING}

    backend.cancel(desk.handle("n1"), force=True)
    assert desk.of("n1") == []


def test_cancelling_what_is_gone_harms_nobody(desk: Desk, backend: LocalBackend) -> None:
    for force in (False, True):
        backend.cancel(desk.handle("never-was"), force=force)


def test_a_pid_that_was_given_to_another_process_is_not_signalled(desk: Desk) -> None:
    innocent = desk.start("sleep", "60", job="n1")
    eventually(lambda: desk.of("n1"))
    now = desk.of("n1")[0]

    send(PROC, Process(now.pid, now.started - 1, now.parent, now.nonce), signal.SIGKILL)
    send(PROC, Process(now.pid, now.started, now.parent, "another"), signal.SIGKILL)
    assert [process.pid for process in desk.of("n1")] == [innocent.pid]
    send(PROC, now, signal.SIGKILL)
    assert innocent.wait(10) == -signal.SIGKILL


def test_a_zombie_is_not_alive(desk: Desk) -> None:
    process = desk.start("sleep", "60", job="n1")
    eventually(lambda: desk.of("n1"))
    process.kill()

    eventually(lambda: not desk.of("n1"))  # although nobody has reaped it
    assert Path(f"/proc/{process.pid}").exists()


def test_submitits_code_for_another_round_never_leaves_the_job(desk: Desk, backend: LocalBackend) -> None:
    desk.rank("import sys; print('once'); sys.exit(144)")
    desk.submit("n1", desk.script("n1", ranks=1))

    assert desk.exit("n1").code == ExitCode.CRASHED
    eventually(lambda: not controllers(desk))
    assert desk.log("n1", "rank_0") == "once\n"


# --- what cannot be known ----------------------------------------------------------------------------


def test_without_proc_nothing_is_known_and_nothing_submitted(desk: Desk, tmp_path: Path) -> None:
    backend, script = LocalBackend(proc=tmp_path / "no-proc"), desk.script("n1")

    assert isinstance(backend.poll([]), Unobservable)
    assert isinstance(backend.find(desk.identity("n1")), Unobservable)
    assert isinstance(backend.submit(script, desk.identity("n1")), Rejected)
    assert not (script.parent / "submitit").exists()


def test_a_submission_that_breaks_is_unknown_until_it_is_looked_up(
    desk: Desk, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.modules.mkdir()
    (desk.modules / "submitit.py").write_text("raise ImportError('half an installation')\n")
    answer = backend.submit(desk.script("n1"), desk.identity("n1"))

    assert answer == Unknown(reason="submitit failed: ImportError: half an installation")
    assert backend.find(desk.identity("n1")) is None


def test_a_job_folder_that_cannot_be_written_is_a_refusal(desk: Desk, backend: LocalBackend) -> None:
    script = desk.script("n1")
    (script.parent / "submitit").write_text("in the way")

    assert isinstance(backend.submit(script, desk.identity("n1")), Rejected)


def in_a_terminal(*command: str) -> tuple[int, int]:
    """The pid of `command`, the foreground process of a terminal of its own, and the other end of that terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        for number in (signal.SIGINT, signal.SIGHUP):  # whoever runs the tests may ignore them
            signal.signal(number, signal.SIG_DFL)
        os.execv(command[0], command)
    return pid, terminal


def commands(desk: Desk, name: str) -> list[int]:
    """The processes of this desk whose command line has `name` in it."""
    lines = {int(path.parent.name): path for path in PROC.glob("[0-9]*/cmdline")}
    found = []
    for pid, path in lines.items():
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if name.encode() in line.split(b"\0") and str(desk.root).encode() in line:
                found.append(pid)
    return found


def controllers(desk: Desk) -> list[int]:
    return commands(desk, "submitit.local._local")


def rank_of(desk: Desk, job: str, rank: int) -> int:
    mark = f"RANK={rank}".encode()
    return next(
        process.pid
        for process in desk.of(job)
        if mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    )
