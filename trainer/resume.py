"""From a parent checkpoint to the position, weights and optimizer that an attempt starts with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.contract import CHECKPOINTS_FOLDER, CLAIM_FILE, STEPS_FOLDER, Attempt, Claim, Parent, Stream, dumps, loads
from trainer.position import Position
from trainer.schedule import Geometry
from trainer.unusable import Unusable
from trainer.verify import damage, read_manifest


@dataclass(frozen=True)
class Start:
    position: Position
    state: dict[str, Any] | None  # None: random weights
    notices: tuple[str, ...] = ()


def parent_of(attempt: Attempt, folder: Path) -> Parent | None:
    """What was decided for the attempt in `folder`. One that stood by: its claim says; None while it is not claimed."""
    if attempt.after is None:
        return attempt.parent
    try:
        return loads(Claim, (folder / CLAIM_FILE).read_bytes()).parent
    except FileNotFoundError:
        return None


def check_parent(run_folder: Path, parent: Parent) -> str | None:
    """What forbids to start from it, in words. Every byte is read before any of it is believed."""
    path = run_folder / parent.path
    try:
        manifest = read_manifest(path)
    except ValueError as error:
        return f"{path}: its manifest cannot be read: {error}"
    if parent.digest is not None and (manifest is None or manifest.digest != parent.digest):
        return f"{path} is not the checkpoint that was decided on (digest {parent.digest})"
    problem = damage(path, manifest)
    return f"{path}: {problem}" if problem else None


def newest_own(folder: Path) -> Parent | None:
    """The newest whole checkpoint of the attempt in `folder`; None: it has none yet."""
    found = []
    for path in [*folder.glob(f"{CHECKPOINTS_FOLDER}/*.pt"), *folder.glob(f"{STEPS_FOLDER}/*.pt")]:
        try:
            manifest = read_manifest(path)
        except ValueError:
            continue
        if manifest is not None:
            found.append((manifest.samples_seen, path, manifest))
    for _, path, manifest in sorted(found, key=lambda item: item[0], reverse=True):
        if damage(path, manifest) is None:
            return Parent(
                path=str(path.relative_to(folder.parent.parent)),
                digest=manifest.digest,
                epochs_done=manifest.epochs_done,
                step=manifest.step,
                samples_seen=manifest.samples_seen,
            )
    return None


def load_start(run_folder: Path, attempt: Attempt, read: Callable[[Path], Any]) -> Start:
    """`read`: the engine's, of a checkpoint file."""
    geometry = Geometry.of(attempt.train, attempt.ranks)
    if attempt.parent is None:
        return Start(Position(geometry), None)
    path = run_folder / attempt.parent.path
    state = read(path)
    if not isinstance(state, dict) or "state_dict" not in state:
        raise Unusable(f"{path} holds no training state (open_clip's keys: epoch, state_dict, optimizer)")
    position, notices = place(state, geometry, attempt.parent)
    return Start(position, state, notices)


def place(state: dict[str, Any], geometry: Geometry, parent: Parent) -> tuple[Position, tuple[str, ...]]:
    """Where a checkpoint of ours, or of open_clip's, stands in this attempt's geometry."""
    ours = state.get("clipctl")
    epochs_done = int(state.get("epoch", parent.epochs_done))
    if ours is None:
        samples = parent.samples_seen or epochs_done * geometry.samples_per_epoch
        return Position(geometry, epochs_done, 0, samples), ("the parent is not clipctl's: samples seen are computed",)
    step, samples = ours["step_in_epoch"], ours["samples_seen"]
    if step == 0:
        return Position(geometry, epochs_done, 0, samples), ()
    before = loads(Stream, dumps(ours["stream"]))
    now = Stream(batch_size=geometry.batch_size, ranks=geometry.ranks, workers=geometry.workers, origin=before.origin)
    if now == before:
        return Position(geometry, epochs_done, step, samples, before.origin), ()
    start = geometry.steps_for(step * before.batch_size * before.ranks)
    text = (
        f"batch, ranks or workers changed inside epoch {epochs_done + 1}: "
        f"a fresh data stream starts at samples_seen {samples} (step {start} of {geometry.steps_per_epoch})"
    )
    return Position(geometry, epochs_done, start, samples, start), (text,)
