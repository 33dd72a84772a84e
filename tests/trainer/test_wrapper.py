"""`train.engine: open_clip`: open_clip_train itself, unchanged, on real images; what is told of it, and how it ends."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipctl.diagnose.causes import follows
from tests.trainer.attempts import PATIENCE, Started, digits_spec, end, log, prepare, spawn
from trainer.contract import NONCE_VARIABLE, Engine, ExitCode, Optim, Save, TrainSpec
from trainer.verify import damage

pytestmark = [pytest.mark.timeout(3 * PATIENCE), pytest.mark.xdist_group("wrapper")]

# open_clip_train hands device_ids to DDP, which refuses them on CPUs. A GPU needs none of this. And it starts something
# that does not leave by itself when it is gone, as a data-loader worker that hangs would not.
ON_CPUS = """
import os, sys
if "trainer.wrapper.child" in sys.orig_argv:
    os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")
    import torch
    class OnCPU(torch.nn.parallel.DistributedDataParallel):
        def __init__(self, module, device_ids, **options):
            super().__init__(module, **options)
    torch.nn.parallel.DistributedDataParallel = OnCPU
"""


def wrapped(digits: Path, **changes: object) -> TrainSpec:
    base = {"engine": Engine.OPEN_CLIP, "epochs": 2, "ddp_static_graph": False, "data": {"workers": 1}}
    return digits_spec(digits, **(base | changes))


def of_job(started: Started) -> Iterator[int]:
    """All its processes: wrappers, open_clip_train's, and their data-loader workers."""
    mark = f"{NONCE_VARIABLE}={started.nonce}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
        except OSError:  # gone meanwhile
            continue


def child_of(started: Started, rank: int) -> int:
    """The process of open_clip_train that this rank wraps, not its workers: the oldest."""
    mine = [pid for pid in of_job(started) if f"RANK={rank}".encode() in environ(pid)]
    children = [pid for pid in mine if b"trainer.wrapper.child" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return min(children, key=lambda pid: int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]))


def environ(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def run(started: Started, code: ExitCode) -> None:
    process = spawn(started, 1)
    try:
        assert process.wait(timeout=PATIENCE) == code, log(started, 0)[-3000:]
        assert not list(of_job(started))
    finally:
        end(started, process)


@pytest.fixture(scope="module")
def whole(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Started:
    """Two epochs of five steps."""
    started = prepare(tmp_path_factory.mktemp("runs") / "whole #1 (50%)", 1, wrapped(digits))
    run(started, ExitCode.COMPLETED)
    return started


def test_an_attempt_tells_what_ran_and_leaves_one_checkpoint_an_epoch(whole: Started) -> None:
    assert whole.told() == ["started", *["progress"] * 10, "completed"]
    progress = whole.events("progress")
    assert [(event.epoch, event.step, event.samples_seen) for event in progress][4:6] == [(1, 5, 80), (2, 6, 96)]
    assert progress[-1].facts["loss"] < progress[0].facts["loss"]
    assert [event.facts["path"] for event in whole.events("checkpoint")] == [
        "checkpoints/epoch_1.pt",
        "checkpoints/epoch_2.pt",
    ]
    assert (whole.events("started")[0].facts["engine"], whole.events("completed")[0].step) == ("open_clip", 10)
    last = whole.manifests()["checkpoints/epoch_2.pt"]
    assert damage(whole.folder / "checkpoints/epoch_2.pt", last) is None
    assert (last.epochs_done, last.step, last.samples_seen, last.finite) == (2, 10, 160, True)
    assert last.loss == progress[-1].facts["loss"]
    assert '"phase": "checkpointing"' in (whole.folder / "heartbeat.json").read_text()
    assert (whole.folder / "params.txt").exists(), "its own folder is the attempt's"


def test_the_next_attempt_goes_on_from_its_checkpoint_and_old_ones_are_pruned(whole: Started, digits: Path) -> None:
    train = wrapped(digits, epochs=4, save=Save(keep_last=1))
    second = prepare(whole.run_folder, 2, train, parent=whole.parent("checkpoints/epoch_2.pt"))
    run(second, ExitCode.COMPLETED)
    assert [event.step for event in second.events("progress")] == list(range(11, 21))
    assert second.events("progress")[0].samples_seen == 176
    (continued,) = second.events("continued")
    assert continued.facts["before"]["loss"] == whole.events("progress")[-1].facts["loss"]
    assert list(second.manifests()) == ["checkpoints/epoch_4.pt"]
    assert list(whole.manifests()) == ["checkpoints/epoch_2.pt"], "what an attempt started from stays"


def test_a_loss_that_overflows_ends_it_as_diverged_and_nothing_is_published(whole: Started, digits: Path) -> None:
    train = wrapped(digits, epochs=400, optim=Optim(lr=1e38, warmup=0))
    third = prepare(whole.run_folder, 3, train, parent=whole.parent("checkpoints/epoch_2.pt"))
    run(third, ExitCode.DIVERGED)
    event = third.events()[-1]
    assert (event.kind, event.epoch, event.facts["cause"], event.facts["ranks"]) == ("diverged", 3, "loss", [0])
    assert not math.isfinite(float(event.facts["loss"]))
    finite = [math.isfinite(float(progress.facts["loss"])) for progress in third.events("progress")]
    assert finite.index(False) + 11 == event.step, "the first bad line, and only finite ones before"
    assert third.manifests() == {}


def test_what_open_clip_train_cannot_change_or_use_is_refused_before_it_starts(whole: Started, digits: Path) -> None:
    number = 10
    parent = whole.parent("checkpoints/epoch_2.pt")
    for optim, error in (
        (Optim(lr=1e-3, beta2=0.95), "train.optim.beta2=0.95: open_clip_train goes on with the 0.98 of its parent"),
        (Optim(lr=1e-3, wd=0.0), "train.optim.wd=0: open_clip_train goes on with the 0.2 of its parent"),
    ):
        started = prepare(whole.run_folder, number, wrapped(digits, optim=optim), parent=parent)
        number += 1
        run(started, ExitCode.REFUSED)
        assert error in started.events()[-1].facts["error"]
        assert not (started.folder / "out.log").exists()


def test_its_own_error_is_the_last_word(digits: Path, tmp_path: Path) -> None:
    started = prepare(tmp_path / "run", 1, wrapped(digits, model="ViT-none"))
    run(started, ExitCode.CRASHED)
    assert [event.kind for event in started.events()] == ["started", "crashed"]
    assert started.events()[-1].facts["error"].startswith("open_clip_train left with code 1: RuntimeError: ")


@pytest.fixture
def two_ranks(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Started:
    (tmp_path / "sitecustomize.py").write_text(ON_CPUS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    return prepare(tmp_path / "run", 1, wrapped(digits, epochs=1000, data={"workers": 1}), ranks=2)


def in_epoch(number: int) -> object:
    return lambda started: any(event.epoch >= number for event in started.events("progress"))


def test_a_stop_ends_all_ranks_and_leaves_the_newest_checkpoint_and_no_process(two_ranks: Started) -> None:
    process = spawn(two_ranks, 2)
    try:
        two_ranks.wait_for(lambda started: len(started.events("checkpoint")) > 1)
        for pid in set(of_job(two_ranks)) - {process.pid}:  # as slurmstepd does: workers too
            os.kill(pid, signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == ExitCode.STOPPED, log(two_ranks, 0)[-3000:]
        assert not list(of_job(two_ranks))
    finally:
        end(two_ranks, process)
    stopped = two_ranks.events()[-1]
    assert (stopped.kind, stopped.facts["signal"]) == ("stopped", signal.SIGTERM)
    newest = max(two_ranks.manifests().items(), key=lambda item: item[1].epochs_done)[0]
    assert stopped.facts["checkpoint"] == newest
    assert two_ranks.events("progress")[0].samples_seen == 32, "of both ranks"
    assert len(two_ranks.events("started")[0].facts["nodes"]) == 2


def test_the_rank_that_failed_first_is_named_and_takes_the_others_along(two_ranks: Started) -> None:
    process = spawn(two_ranks, 2)
    try:
        two_ranks.wait_for(in_epoch(2))
        os.kill(child_of(two_ranks, 1), signal.SIGKILL)
        assert process.wait(timeout=PATIENCE) == ExitCode.CRASHED, log(two_ranks, 0)[-3000:]
        assert not list(of_job(two_ranks))
    finally:
        end(two_ranks, process)
    crashed = two_ranks.events()[-1]
    error = crashed.facts["error"]
    assert crashed.kind == "crashed"
    assert (crashed.facts["rank"], error) == (1, "open_clip_train was killed by SIGKILL") or follows(error)
