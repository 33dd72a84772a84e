"""Jobs that turn up in the queue when nobody waits for them any more."""

from __future__ import annotations

from pathlib import Path

from tests.slurm.desk import SlurmDesk, eventually, impostor, real
from tests.story.watch import Watch

SHORT = ("train.epochs=2", "train.data.train_num_samples=80", "train.optim.warmup=1")
HASTE = {"lost_after": 2, "unanswered_for": 2}  # seconds
# sbatch gives up, and its request is carried out all the same, when a file says that it is time.
PARKED = """
echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2
(until [ -e {go} ]; do sleep 0.2; done; exec {sbatch} "$@" >{answer} 2>&1) </dev/null >/dev/null 2>&1 &
exit 1
"""


def parked_launch(desk: SlurmDesk, folder: Path) -> Path:
    """The file that lets it go on."""
    go = folder / "go"
    path = impostor(folder, PARKED.format(go=go, sbatch=real("sbatch"), answer=folder / "answer"))
    desk.cluster.profile(desk.root, limits=HASTE)
    assert "is not known" in desk.launch("r", *SHORT, PATH=path).err
    return go


def occupied(desk: SlurmDesk) -> str:
    """All nodes are somebody else's: what arrives waits. The id of their job."""
    blocker = ("--parsable", "--output=/dev/null", "--partition=urgent", "--nodes=6", "--exclusive", "--wrap=sleep 300")
    return desk.cluster.run("sbatch", *blocker).stdout.strip()


def arrives(go: Path) -> str:
    """The job's id."""
    go.touch()
    answer = go.with_name("answer")
    eventually(lambda: answer.exists() and answer.read_text().strip().isdecimal())
    return answer.read_text().strip()


def test_a_job_that_was_cancelled_before_it_arrived_is_cancelled_on_sight(watch: Watch, tmp_path: Path) -> None:
    desk = watch.desk
    go = parked_launch(desk, tmp_path)
    occupied(desk)
    assert desk.clipctl("cancel", "r").code == 0
    job = arrives(go)
    watch.until(lambda: desk.jobs_of("r") == [])
    assert f"job {job} was told again to stop: it is cancelled" in "\n".join(watch.said)
    watch.until(lambda: desk.status("r")["state"] == "cancelled")
    assert desk.events("r") == [], "it never came to run"


def test_a_job_that_arrives_after_its_successor_is_ended(watch: Watch, tmp_path: Path) -> None:
    """I3: singleton keeps it from running, and the watchdog from staying in the queue for ever."""
    desk = watch.desk
    go = parked_launch(desk, tmp_path)
    blocker = occupied(desk)
    watch.attempts("r", 2)
    eventually(lambda: len(desk.jobs_of("r")) == 1)
    job = arrives(go)
    assert len(desk.jobs_of("r")) == 2
    watch.until(lambda: job not in desk.jobs_of("r"))
    assert f"job {job} of attempt 1 was taken for gone and is back: it is ended" in "\n".join(watch.said)
    desk.cluster.run("scancel", blocker)
    run = watch.completes("r")
    assert len(run.intents()) == 2 and desk.events("r", 1) == []
