"""`clipctl eval` on this machine: a real job of its own, from the command line to the scores in the store."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from clipctl.backends.local import LocalBackend
from clipctl.domain import RunState
from clipctl.errors import ExitStatus
from clipctl.ops.digits import write_digits
from clipctl.ops.tick import Site, tick
from clipctl.store import open_store
from tests.local.desk import eventually
from tests.ops.theatre import Stage, demo
from tests.trainer.benchmark_sets import captioned, classified, digits_of, write_checkpoint
from trainer.contract import EventKind

PATIENCE = 240.0  # seconds; importing torch takes half a minute where much else runs


def clipctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clipctl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE)


def trained(home: Path, pictures: Sequence[tuple[bytes, int]]) -> Path:
    """A completed run with an epoch_2.pt that open_clip's model can load; the run's folder."""
    with open_store(home) as store:
        run = Stage(store, demo())
        run.launch()
        for epochs in (1, 2):
            path = run.save(epochs)
        made = write_checkpoint(path, run.spec.train, pictures)
        manifest = json.loads(path.with_name("epoch_2.pt.json").read_text())
        # the run's, as `save` placed it, of the file as it is
        place = {"run": "tiny", "epochs_done": 2, "step": 20, "samples_seen": 1920}
        path.with_name("epoch_2.pt.json").write_text(json.dumps(manifest | place | {"digest": made.digest}))
        run.event(EventKind.COMPLETED, epoch=3, into=0)
        run.end(0)
        assert run.state is RunState.COMPLETED
        return run.folder.path


def folder_of_evaluation(run: Path) -> Path:
    (folder,) = (run / "evals").iterdir()
    return folder


@pytest.mark.timeout(2 * PATIENCE)
def test_a_checkpoint_is_scored_and_its_scores_are_in_the_store_with_their_epoch(home: Path, tmp_path: Path) -> None:
    pictures = digits_of(write_digits(tmp_path / "digits").folder)[::8]
    run, data = trained(home, pictures), tmp_path / "sets"
    classified(data, "digits", pictures)
    captioned(data, "pairs", pictures)

    sets = ("--dataset", "digits", "--dataset", "pairs", "--dataset-root", str(data))
    said = clipctl("eval", "tiny", "--epoch", "2", *sets)
    assert said.returncode == ExitStatus.OK, said.stderr
    assert "  checkpoint  attempts/1/checkpoints/epoch_2.pt\n" in said.stdout
    assert "tiny: epoch 2 is evaluated by job " in said.stdout
    folder = folder_of_evaluation(run)
    assert list((run / "jobs").iterdir()) != [] and not (run / "jobs" / folder.name).exists()

    watched(home)  # while the job may run: it is none of the run's
    eventually((folder / "exit.json").exists, PATIENCE)
    assert json.loads((folder / "exit.json").read_text())["code"] == 0, (folder / "logs" / "script.log").read_text()
    seen = json.loads(clipctl("evals", "tiny", "--json").stdout)["evaluations"]
    assert [(each["epoch"], each["state"], each["wanted"]) for each in seen] == [(2, "done", 2)]

    assert watched(home) in ((), ("tiny: evaluated: epoch 2 on digits, pairs, code 0",))
    assert watched(home) == ()  # once
    with closing(sqlite3.connect(home / "clipctl.db")) as database:
        rows = database.execute("SELECT dataset, metric, epoch, value FROM scores ORDER BY rowid").fetchall()
    assert {(dataset, epoch) for dataset, _, epoch, _ in rows} == {("digits", 2), ("pairs", 2)}
    results = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    written = [(each["dataset"], name, 2, value) for each in results for name, value in each["metrics"].items()]
    assert rows == written and len(rows) == 3 + 6

    told = clipctl("evals", "tiny").stdout
    assert f"  digits  {results[0]['metrics']['acc1']:.1%}".split() == told.splitlines()[2].split()[:2]
    assert "IMAGE R@1  IMAGE R@5  IMAGE R@10  TEXT R@1  TEXT R@5  TEXT R@10" in told
    assert "evaluate   epoch 2 on digits, pairs" in clipctl("history", "tiny").stdout
    assert clipctl("db", "check").returncode == ExitStatus.OK
    assert "9 scores" in clipctl("db", "rebuild").stdout
    assert clipctl("evals", "tiny").stdout == told


def watched(home: Path) -> tuple[str, ...]:
    """What a tick says of evaluations."""
    with open_store(home) as store:
        run = Stage(store, demo())
        site = Site(cluster=run.cluster, backend=LocalBackend())
        lines = tick(lambda name: site, store=store, clock=run.time).lines
        assert store.run("tiny").attempts == 1
        return tuple(line for line in lines if "evaluated" in line)
