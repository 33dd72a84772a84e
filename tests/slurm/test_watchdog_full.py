"""F27: a full disk, below a run's checkpoints or below clipctl's own home."""

from __future__ import annotations

from clipctl.errors import ExitStatus
from tests.full import PAGE, fill, small_disk
from tests.slurm.blows import everywhere
from tests.slurm.desk import SlurmDesk, eventually
from tests.story.watch import Watch, watching

ROOM = 14 * PAGE  # for three checkpoints of three pages, and their manifests
FULL = "No space left on device"


def test_checkpoints_that_fill_their_disk_hold_the_run(watch: Watch) -> None:
    """Whoever made room releases it, and it goes on from the last one that fitted."""
    desk = watch.desk
    others = everywhere(desk)
    desk.launched("r", "train.epochs=5")  # the fourth does not fit, nor does the fifth
    with small_disk(desk.folder("r") / "attempts/1/checkpoints", ROOM) as disk:
        desk.cluster.run("scancel", others)
        basis = watch.held("r")
        run = watch.run("r")
        incident = run.incidents()[-1]  # maybe after one of the job that went on
        assert set(run.kinds()) == {"storage"}
        assert (incident["kind"], incident["passes"]) == ("storage", False)
        assert f"{FULL}: 'checkpoints/epoch_5.pt'" in incident["detail"]
        (borne,) = run.events(1, "notice")
        assert borne["text"].startswith("checkpoints/epoch_4.pt was not written: ") and FULL in borne["text"]
        assert any(line.startswith("event ") and "crashed on rank 0" in line for line in incident["lines"])
        assert basis.startswith("storage: ") and "a restart would not help: make room" in basis
        shown = desk.clipctl("status", "r").out
        assert "clipctl checkpoints r" in shown and "clipctl release r" in shown and "keep_last" in shown
        assert sorted(file.name for file in disk.glob("*.pt*")) == [
            name for epoch in (1, 2, 3) for name in (f"epoch_{epoch}.pt", f"epoch_{epoch}.pt.json")
        ]
        watch.stays("r")
        assert desk.clipctl("release", "r").code == 0
        watch.completes("r")
        assert run.attempt(2)["parent"]["path"] == "attempts/1/checkpoints/epoch_3.pt"


def test_a_home_without_room_decides_nothing_and_goes_on_once_there_is(desk: SlurmDesk) -> None:
    """Its run has crashed; whatever room is left, the tick says in one line that it could not write."""
    with small_disk(desk.home, 256 * PAGE), watching(desk) as watch:
        desk.launched("r", "train.epochs=4", "train.faults=[{kind: crash, at_epoch: 2, at_step: 3}]")
        watch.tick()
        eventually(lambda: desk.events("r", 1, "crashed"))
        eventually(lambda: not desk.jobs_of("r"))
        for pages in (0, 2):  # none for its turn; some, but not enough for what it decides
            without_room(watch, pages * PAGE)
        run = watch.completes("r")
        assert (run.kinds(), len(run.intents())) == (["crashed"], 2)


def without_room(watch: Watch, leave: int) -> None:
    """Nothing new lies there but the turn of a watchdog that never came to its end."""
    home, run = watch.desk.home, watch.run("r")
    filler = fill(home, leave=leave)
    files, told = set(home.rglob("*")), run.entries()
    said = watch.tick()
    assert said.code == ExitStatus.UNAVAILABLE
    assert sum(line.count(FULL) + line.count("disk is full") for line in (said.out + said.err).splitlines()) == 1, said
    assert (run.entries(), watch.calls.count("sbatch")) == (told, 0)
    assert {path.name.rstrip("0123456789") for path in set(home.rglob("*")) - files} <= {"term."}
    filler.unlink()
