"""The ranks of one machine: started, signalled and ended as srun does it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.local.desk import TRAINING, Desk, eventually
from trainer.contract import ExitCode
from trainer.spawn import rank_environment

READY = """
import os, sys
from pathlib import Path
Path(sys.argv[1], f"rank_{os.environ['RANK']}.ready").touch()
"""

# Two workers, as a data loader has them: they ignore what the trainer answers.
WITH_WORKERS = """
import os, signal, subprocess, sys
from pathlib import Path
sleeping = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
workers = [subprocess.Popen([sys.executable, "-c", sleeping]).pid for _ in range(2)]
"""

# A rank that hears nothing, and a worker that does what a program does by default.
DEAF_WITH_WORKER = f"""
import signal, subprocess
signal.signal(signal.SIGTERM, lambda *_: None)
worker = subprocess.Popen(["sleep", "600"])
{READY}
print("worker", worker.wait())
"""


def spawn(desk: Desk, ranks: int = 2, grace: float = 30.0, **environ: str) -> subprocess.Popen[bytes]:
    folder = desk.attempt().path
    desk.issue("n1")
    options = ("-n", str(ranks), "--grace", str(grace), "--module", "stand_in")
    return desk.python("trainer.spawn", *options, folder, job="n1", **environ)


def pids(desk: Desk) -> list[int]:
    return [process.pid for process in desk.of("n1")]


def ranks_of(desk: Desk, spawned: subprocess.Popen[bytes]) -> list[int]:
    """Their pids, in the order of their ranks."""
    return [process.pid for process in desk.of("n1") if process.parent == spawned.pid]


def test_every_rank_knows_its_place_and_has_a_log_of_its_own(desk: Desk) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "CLIPCTL_RENDEZVOUS", "GLOO_SOCKET_IFNAME", "PYTHONUNBUFFERED")
    desk.rank(f"import json, os, sys; print(json.dumps([[os.environ[name] for name in {names}], sys.argv[1]]))")
    assert spawn(desk, ranks=3).wait(60) == 0

    told = [json.loads(desk.log("n1", f"rank_{rank}")) for rank in range(3)]
    rendezvous = told[0][0][3]
    assert rendezvous.startswith(f"{desk.job('n1').path}/rendezvous-")
    for rank, (values, attempt) in enumerate(told):
        assert values == [str(rank), str(rank), "3", rendezvous, "lo", "1"]
        assert attempt == str(desk.folder.attempt(1).path)


def test_a_rendezvous_is_used_once_and_leaves_nothing(desk: Desk) -> None:
    desk.rank("import os; path = os.environ['CLIPCTL_RENDEZVOUS']; open(path, 'a'); print(path)")
    assert spawn(desk, ranks=1).wait(60) == 0
    folder = desk.folder.attempt(1).path
    desk.python("trainer.spawn", "-n", "1", "--module", "stand_in", folder, job="n1").wait(60)

    first, second = desk.log("n1", "rank_0").splitlines()  # appended: a restart overwrites no log
    assert first != second
    assert not list(desk.job("n1").path.glob("rendezvous*"))


def test_threads_are_shared_out_and_a_users_own_word_counts() -> None:
    cores = len(os.sched_getaffinity(0))
    for ranks, threads in ((1, cores), (cores, 1), (5 * cores, 1)):
        assert rank_environment({}, 0, ranks, Path("/r"))["OMP_NUM_THREADS"] == str(threads)
    chosen = rank_environment({"OMP_NUM_THREADS": "7", "GLOO_SOCKET_IFNAME": "eth0", "RANK": "9"}, 1, 2, Path("/r"))
    assert (chosen["OMP_NUM_THREADS"], chosen["GLOO_SOCKET_IFNAME"], chosen["RANK"]) == ("7", "eth0", "1")


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("", 0),
        ("import sys; sys.exit(86)", ExitCode.DIVERGED),
        ("import os, sys; sys.exit(85 if os.environ['RANK'] == '0' else 0)", ExitCode.STOPPED),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139),
        ("raise RuntimeError('a bug')", 1),
    ],
)
def test_the_code_is_the_ranks_own(source: str, code: int, desk: Desk) -> None:
    desk.rank(source)
    assert spawn(desk).wait(60) == code


def test_a_traceback_is_in_the_log_of_its_rank(desk: Desk) -> None:
    desk.rank("import os\nif os.environ['RANK'] == '1': raise RuntimeError('a bug')")
    spawn(desk).wait(60)

    assert "RuntimeError: a bug" in desk.log("n1", "rank_1")
    assert desk.log("n1", "rank_0") == ""


def test_what_a_rank_says_is_seen_at_once(desk: Desk) -> None:
    desk.rank(TRAINING)
    process = spawn(desk)
    desk.ready()

    assert desk.log("n1", "rank_0") == "training\n"  # while it runs
    process.terminate()
    assert process.wait(60) == ExitCode.STOPPED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_request_to_stop_reaches_every_rank_once(number: signal.Signals, desk: Desk) -> None:
    desk.rank(TRAINING)
    process = spawn(desk)
    desk.ready()
    process.send_signal(number)

    assert process.wait(60) == ExitCode.STOPPED
    for rank in (0, 1):
        assert desk.log("n1", f"rank_{rank}").splitlines() == ["training", f"told {int(number)}", "saved after 1"]


def test_a_request_to_stop_reaches_the_workers_too_as_slurm_has_it(desk: Desk) -> None:
    desk.rank(DEAF_WITH_WORKER)
    process = spawn(desk, ranks=1)
    desk.ready(1)
    process.terminate()

    assert process.wait(60) == 0
    assert desk.log("n1", "rank_0") == f"worker {-signal.SIGTERM}\n"


# --- one fails ---------------------------------------------------------------------------------------


def test_when_one_rank_dies_the_others_may_save_and_leave(desk: Desk) -> None:
    """The grace begins when the first one fails; a rank that leaves within it is not touched."""
    desk.rank(READY + "import time\nif os.environ['RANK'] == '1': sys.exit(3)\ntime.sleep(1); print('saved')")
    process = spawn(desk)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 3
    assert desk.log("n1", "rank_0") == "saved\n"
    assert said == b"rank 1 left with code 3; 1 others have 30 s\n"


def test_after_the_grace_the_others_get_sigterm(desk: Desk) -> None:
    desk.rank(TRAINING)
    process = spawn(desk, grace=0.5)
    desk.ready()
    os.kill(ranks_of(desk, process)[1], signal.SIGKILL)

    assert process.wait(60) == 128 + signal.SIGKILL  # the first bad one, not what the others made of it
    assert "told 15" in desk.log("n1", "rank_0")


def test_and_who_does_not_hear_that_is_killed(desk: Desk) -> None:
    desk.rank(TRAINING.replace("while not told", "while True"))
    process = spawn(desk, grace=0.3)
    desk.ready()
    os.kill(ranks_of(desk, process)[1], signal.SIGKILL)

    assert process.wait(60) == 128 + signal.SIGKILL
    assert "told 15" in desk.log("n1", "rank_0")
    eventually(lambda: not pids(desk))


# --- nothing is left ---------------------------------------------------------------------------------


def test_workers_end_with_their_rank(desk: Desk) -> None:
    desk.rank(WITH_WORKERS + READY)

    assert spawn(desk).wait(60) == 0
    eventually(lambda: not pids(desk))


def test_kill_9_of_spawn_takes_the_ranks_along(desk: Desk) -> None:
    desk.rank(TRAINING)
    process = spawn(desk)
    desk.ready()
    process.kill()

    eventually(lambda: not pids(desk))


def test_a_rank_that_cannot_be_started_takes_the_others_along(desk: Desk) -> None:
    desk.rank(TRAINING)
    desk.attempt()
    (desk.issue("n1").logs / "rank_1.log").mkdir()
    process = desk.python("trainer.spawn", "-n", "2", "--module", "stand_in", desk.folder.attempt(1).path, job="n1")
    _, said = process.communicate(timeout=60)

    assert process.returncode == 1 and b"IsADirectoryError" in said
    eventually(lambda: not pids(desk))
