"""What open_clip_train is started with, what the wrappers say to each other, and that it does not outlive its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainer.attempts import PATIENCE, Started, prepare, rehearsal_spec, run_here
from trainer.contract import Attempt, Engine, ExitCode, Optim, Save, loads
from trainer.place import Place
from trainer.unusable import Unusable
from trainer.wrapper.peers import Gone, connected, wait
from trainer.wrapper.process import stop_signal
from trainer.wrapper.start import child_environment, parent_for, sees_one_gpu, set_aside

# --- from what ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Started:
    """Two epochs of five steps, saved inside of them as well. Who wrote a checkpoint makes no difference here."""
    spec = rehearsal_spec(epochs=2, save=Save(steps=2))
    started = prepare(tmp_path_factory.mktemp("runs") / "run", 1, spec)
    assert run_here(started) == ExitCode.COMPLETED
    return started


def attempt_from(first: Started, name: str, **optim: float) -> Attempt:
    attempt = loads(Attempt, (first.folder / "attempt.json").read_text())
    train = replace(attempt.train, engine=Engine.OPEN_CLIP, optim=replace(attempt.train.optim, **optim))
    return replace(attempt, number=2, train=train, parent=first.parent(name))


def test_it_goes_on_from_the_border_of_an_epoch_alone(first: Started) -> None:
    folder = first.folder.parent / "2"
    whole, inside = (attempt_from(first, name) for name in ("checkpoints/epoch_1.pt", "steps/step_7.pt"))
    assert parent_for(whole, folder, restarted=False) == whole.parent
    with pytest.raises(Unusable, match=r"step_7\.pt lies inside an epoch.*: clipctl resume --epoch 2$"):
        parent_for(inside, folder, restarted=False)


@pytest.mark.parametrize("name", ["wd", "beta1", "beta2", "eps"])
def test_what_it_takes_from_the_file_must_be_what_is_asked_for(first: Started, name: str) -> None:
    attempt = attempt_from(first, "checkpoints/epoch_1.pt", **{name: 0.5})
    was = getattr(Optim(), name)
    with pytest.raises(Unusable, match=rf"^train\.optim\.{name}=0\.5: open_clip_train goes on with the {was:g} of its"):
        parent_for(attempt, first.folder.parent / "2", restarted=False)


def test_what_it_does_not_take_from_the_file_may_change(first: Started) -> None:
    attempt = attempt_from(first, "checkpoints/epoch_1.pt", lr=9e-4, warmup=1, grad_clip_norm=1.0)
    assert parent_for(attempt, first.folder.parent / "2", restarted=False) == attempt.parent


def test_a_job_that_its_site_started_again_goes_on_from_its_own_newest(first: Started) -> None:
    attempt = loads(Attempt, (first.folder / "attempt.json").read_text())
    assert parent_for(attempt, first.folder, restarted=False) is None
    parent = parent_for(attempt, first.folder, restarted=True)
    assert parent is not None
    assert parent.path == "attempts/1/checkpoints/epoch_2.pt"


def test_a_parent_that_has_changed_since_is_refused(first: Started, tmp_path: Path) -> None:
    attempt = attempt_from(first, "checkpoints/epoch_1.pt")
    assert attempt.parent is not None
    other = replace(attempt, parent=replace(attempt.parent, digest="sha256:0"))
    with pytest.raises(Unusable, match="is not the checkpoint that was decided on"):
        parent_for(other, first.folder.parent / "2", restarted=False)


# --- where --------------------------------------------------------------------------------------------


def test_its_environment_says_what_its_distributed_module_looks_at_first() -> None:
    slurm = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "MASTER_ADDR": "jwb1i", "MASTER_PORT": "20001"}
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    there = child_environment(slurm, Place(5, 8, 1), 40000)
    assert [there[name] for name in names] == ["5", "8", "1", "jwb1i", "40000"]
    here = child_environment({"CLIPCTL_RENDEZVOUS": "/x"}, Place(1, 2, 1), 40000)
    assert [here[name] for name in names] == ["1", "2", "1", "127.0.0.1", "40000"]
    alone = child_environment({"SLURM_NTASKS": "384"}, Place(0, 1, 0), 40000)
    assert alone["WORLD_SIZE"] == "1", "or it would wait for the other 383"


def test_a_rank_that_sees_one_gpu_alone_takes_that() -> None:
    seen = [sees_one_gpu({"CUDA_VISIBLE_DEVICES": value}) for value in ("3", "GPU-8f2a", "0,1,2,3", "")]
    assert (seen, sees_one_gpu({})) == ([True, True, False, False], False)


def test_the_log_of_a_start_before_is_set_aside(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "out.log").write_text(str(number))
        set_aside(tmp_path / "out.log")
    set_aside(tmp_path / "out.log")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out.log.1": "1", "out.log.2": "2"}


# --- how it ends --------------------------------------------------------------------------------------


def test_who_was_asked_to_stop_did_not_crash() -> None:
    assert [stop_signal(-number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == [15, 10, 2]
    assert [stop_signal(status) for status in (0, 1, 15, -signal.SIGKILL, -signal.SIGSEGV)] == [0] * 5


def test_wrappers_hear_whole_messages_and_that_one_has_gone() -> None:
    ours, theirs = socket.socketpair()
    (peer,) = connected(0, [ours])
    assert (peer.rank, peer.receive()) == (1, None)
    theirs.sendall(b'{"error": "x"}\n{"don')
    wait([peer], PATIENCE)
    assert peer.receive() == {"error": "x"}
    assert peer.receive() is None
    theirs.sendall(b'e": true}\n')
    theirs.close()
    assert peer.expect() == {"done": True}
    with pytest.raises(Gone, match="rank 1 has left"):
        peer.expect()
    peer.send({"over": True})  # nobody is there to hear it
    wait([peer], 0)
    peer.close()


WRAPPER = """
import os, time
from trainer.wrapper.process import Child
child = Child(["--help"], os.environ)
time.sleep(600)
"""


def test_open_clip_train_does_not_outlive_its_wrapper() -> None:
    wrapper = subprocess.Popen([sys.executable, "-c", WRAPPER], stdout=subprocess.DEVNULL)
    children, child = Path(f"/proc/{wrapper.pid}/task/{wrapper.pid}/children"), None
    try:
        until(lambda: bool(children.read_text()))
        child = int(children.read_text())
        until(lambda: "torch" in Path(f"/proc/{child}/maps").read_text())  # so it is bound by now
        os.kill(child, signal.SIGSTOP)  # nor can it end by itself
        wrapper.kill()
        wrapper.wait()
        until(lambda: gone(child))
    finally:
        wrapper.kill()
        wrapper.wait()
        if child is not None:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def gone(pid: int) -> bool:
    """Or dead, and not reaped yet by whoever took it over."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
