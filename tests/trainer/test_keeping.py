"""Which checkpoints may go."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from trainer.checkpoints import name_of
from trainer.contract import CheckpointManifest, Precision, Stream
from trainer.position import Position
from trainer.pruning import Saved, removable
from trainer.schedule import Geometry
from trainer.verify import damage, read_manifest

GEOMETRY = Geometry(train_num_samples=1000, batch_size=10, ranks=1, workers=1)


def saved(attempt: int, epochs_done: int, step_in_epoch: int = 0) -> Saved:
    at = Position(GEOMETRY, epochs_done, step_in_epoch, samples_seen=epochs_done * 1000 + step_in_epoch * 10)
    manifest = CheckpointManifest(
        file=Path(name_of(at)).name,
        size=1,
        digest="sha256:0",
        run="r",
        attempt=attempt,
        epochs_done=epochs_done,
        step=at.step,
        step_in_epoch=step_in_epoch,
        samples_seen=at.samples_seen,
        loss=1.0,
        finite=True,
        precision=Precision.FP32,
        stream=Stream(batch_size=10, ranks=1, workers=1),
        time=0.0,
    )
    return Saved(manifest, Path(f"attempts/{attempt}") / name_of(at))


def gone(files: list[Saved], keep_last: int | None, line_epochs: int = 0, parents: tuple[Saved, ...] = ()) -> set[str]:
    protected = frozenset(parent.path for parent in parents)
    newest = files[-1].manifest
    paths = removable(files, newest, keep_last=keep_last, line_epochs=line_epochs, protected=protected)
    assert len(paths) == len(set(paths)), "nothing is deleted twice"
    return {str(path).removeprefix("attempts/") for path in paths}


def test_without_keep_last_every_epoch_stays() -> None:
    assert gone([saved(1, epoch) for epoch in range(1, 50)], keep_last=None) == set()


def test_the_last_ones_stay() -> None:
    files = [saved(1, epoch) for epoch in range(1, 6)]
    assert gone(files, keep_last=3) == {"1/checkpoints/epoch_1.pt", "1/checkpoints/epoch_2.pt"}


def test_a_parent_never_goes() -> None:
    files = [saved(1, 1), saved(1, 2), saved(2, 3), saved(2, 4), saved(2, 5)]
    assert gone(files, keep_last=2, line_epochs=2, parents=(files[1],)) == {
        "1/checkpoints/epoch_1.pt",
        "2/checkpoints/epoch_3.pt",
    }


def test_what_the_line_was_rolled_back_behind_goes_only_once_it_has_been_passed() -> None:
    old = [saved(1, epoch) for epoch in (66, 67, 68, 69, 70)]
    files = [*old, saved(2, 69)]
    assert gone(files, keep_last=9, line_epochs=68) == set()
    files = [*old, saved(2, 69), saved(2, 70)]
    assert gone(files, keep_last=9, line_epochs=68) == {"1/checkpoints/epoch_69.pt"}


def test_of_step_files_the_newest_two_of_this_attempt_stay() -> None:
    files = [saved(1, 0, 5), saved(2, 0, 10), saved(2, 0, 20), saved(2, 1, 30)]
    assert gone(files, keep_last=None) == {"2/steps/step_10.pt"}


def test_names_are_open_clips_for_epochs_and_stand_apart_for_steps() -> None:
    assert name_of(Position(GEOMETRY, epochs_done=68)) == "checkpoints/epoch_68.pt"
    assert name_of(Position(GEOMETRY, epochs_done=68, step_in_epoch=7)) == "steps/step_6807.pt"


def test_kill_9_at_any_moment_of_a_save_leaves_whole_checkpoints_only(
    tmp_path: Path, soak: Callable[[int, int], int]
) -> None:
    """Nothing that is called a checkpoint is half a one, for us by its manifest and for open_clip by its name."""
    folder = tmp_path / "attempts" / "1"
    folder.mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-m", "tests.trainer.savers", str(folder), str(soak(20, 1000))],
        cwd=Path(__file__).parents[2],
        check=True,
        timeout=600,
    )
    files = list(folder.glob("*/*.pt"))
    assert files
    for path in files:
        assert damage(path, read_manifest(path)) is None
    assert {path.with_suffix("") for path in folder.glob("*/*.json")} <= set(files)
    assert list(folder.glob("*/*.pt.tmp")), "one at least was cut off while it wrote"
