"""Nodes that are to blame: Slurm's word on them reaches the incident, and who has two strikes is left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster import Cluster
from tests.slurm.desk import SlurmDesk, eventually
from tests.story.run_files import RunFiles
from tests.story.watch import Watch

LONG = "train.epochs=40"


def where(desk: SlurmDesk) -> str:
    """The node of a job that trains."""
    return str(desk.trains("r")["job"]["nodes"])


def blamed(run: RunFiles) -> list[list[str]]:
    return [incident["nodes"] for incident in run.incidents()]


def excluded(desk: SlurmDesk) -> str:
    """As Slurm has it from the newest job."""
    (job,) = desk.jobs_of("r")
    shown = desk.cluster.run("scontrol", "show", "job", "--oneliner", job).stdout
    return shown.partition("ExcNodeList=")[2].split()[0]


def test_a_node_that_dies_twice_is_left_out(watch: Watch) -> None:
    """F9: the first time says nothing yet, and the run comes back to a node that is up again."""
    desk, run = watch.desk, watch.run("r")
    desk.launched("r", LONG)
    story, left_out = [], []
    for attempt in (2, 3, 4):
        story.append(node := where(desk))
        for dead in story[-2:-1]:  # only now: the job after its end has found another node
            desk.cluster.revive(dead)
        desk.cluster.kill_node(node)
        watch.attempts("r", attempt)
        left_out.append(excluded(desk))
    twice, once, _ = story
    assert story == [twice, once, twice]
    assert left_out == ["(null)", "(null)", twice]
    assert (run.kinds(), blamed(run)) == (["node_failed"] * 3, [[node] for node in story])
    assert any(f"node {twice} DOWN" in line and "killed" in line for line in run.incidents()[0]["lines"])
    assert run.intents()[3]["patch"]["slurm.exclude"] == twice


@pytest.fixture
def lemons(cluster: Cluster) -> Iterator[list[str]]:
    """The first two nodes fail each start: Slurm's prolog does not succeed there."""
    found = cluster.nodes[:2]
    script = cluster.folder / "prolog"
    script.write_text(f"#!/bin/sh\ncase $SLURMD_NODENAME in {'|'.join(found)}) exit 1 ;; esac\n")
    script.chmod(0o755)
    usual = cluster.plan.slurm_conf.read_text()
    configure(cluster, f"{usual}Prolog={script}\n")
    yield found
    configure(cluster, usual)


def configure(cluster: Cluster, text: str) -> None:
    cluster.plan.slurm_conf.write_text(text)
    cluster.run("scontrol", "reconfigure")


def test_nodes_that_fail_each_start_are_left_out(lemons: list[str], watch: Watch) -> None:
    """F11: Slurm drains such a node and calls the job cancelled; its site puts it back into service each time."""
    desk, run = watch.desk, watch.run("r")
    desk.launched("r")
    for attempt in (2, 3, 4, 5):
        watch.attempts("r", attempt)
        eventually(lambda: not desk.jobs_of("r"))  # it has failed elsewhere, or completed
        for node in blamed(run)[-1]:
            desk.cluster.resume(node)
    watch.completes("r")
    assert (run.kinds(), blamed(run)) == (["node_failed"] * 4, [[node] for node in lemons * 2])
    assert any("Prolog error" in line for line in run.incidents()[0]["lines"])
    assert run.intents()[4]["patch"]["slurm.exclude"] == ",".join(lemons)


@contextmanager
def unable_to_launch(cluster: Cluster, node: str) -> Iterator[None]:
    """Its slurmd has no folder for what it is to start."""
    spool = cluster.folder / "spool" / node
    kept = spool.rename(spool.with_suffix(".kept"))
    spool.touch()
    try:
        yield
    finally:
        spool.unlink()
        kept.rename(spool)


def test_a_node_where_ranks_cannot_be_launched_is_named(watch: Watch) -> None:
    """Slurm keeps the node in service, and calls the job failed: only srun's words say by which node."""
    desk, run = watch.desk, watch.run("r")
    node = desk.cluster.node(1)
    with unable_to_launch(desk.cluster, node):
        desk.launched("r", "resources.nodes=2", "recovery.backoff=0")
        watch.attempts("r", 2)
    watch.completes("r")
    assert set(run.kinds()) == {"node_failed"}  # twice, where the second attempt began before the node was well again
    assert all(nodes == [node] for nodes in blamed(run))


def test_a_node_that_comes_back_at_once_is_named(watch: Watch) -> None:
    """It fails and is in service again before anybody asks: Slurm has forgotten why, and srun's words are left."""
    desk, run = watch.desk, watch.run("r")
    desk.launched("r", "train.epochs=40", "resources.nodes=2")
    desk.trains("r")
    node = desk.cluster.node(1)
    desk.cluster.kill_node(node)
    desk.cluster.revive(node)
    watch.attempts("r", 2)
    assert (run.kinds(), blamed(run)) == (["node_failed"], [[node]])


def test_the_rank_that_all_wait_for_is_named_with_its_node(watch: Watch) -> None:
    """Nothing is stopped for it: a person sees where to look, and the run goes on."""
    # far slower than eight ranks on a busy machine are, and said each step: ticks have ten seconds to see it
    slow = "train.faults=[{kind: slow_rank, at_epoch: 2, at_step: 1, rank: 3, seconds: 1}]"
    watch.desk.launched("r", "train.epochs=4", "train.log_every_n_steps=1", "resources.nodes=2", slow)
    run = watch.completes("r")
    ((told,), (started,)) = run.incidents(), run.events(1, "started")
    assert (told["kind"], told["ranks"], told["alive"]) == ("slow", [3], True)
    assert told["detail"].startswith(f"all wait for rank 3 on {started['nodes'][3]} for ")
    assert len(set(started["nodes"])) == 2
    assert len(run.intents()) == 1
