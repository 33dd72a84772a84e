"""Makes checkpoints of the files that open_clip_train writes: whole, finite and durable, or they do not exist.

It writes them in place, straight under their name: what is there before it has gone on may be a part of one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from trainer.checkpoints import Fenced, manifest_of, name_of, published_as
from trainer.contract import Attempt, EventKind, dumps, sync_folder, write_atomic
from trainer.position import Position
from trainer.pruning import prune
from trainer.recorder import Recorder
from trainer.verify import damage, digest, manifest_path


class Publisher:
    """In a thread, in order, while training goes on. `settle` or `look` raise what happened there; `close` it."""

    def __init__(self, attempt: Attempt, folder: Path, recorder: Recorder, still_mine: Callable[[], bool]) -> None:
        self._attempt, self._folder, self._recorder, self._still_mine = attempt, folder, recorder, still_mine
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._begun: list[Future[None]] = []
        self.newest: str | None = None  # of this attempt, as events say it
        self.not_finite: Position | None = None  # where the weights were not

    def publish(self, at: Position, loss: float | None) -> None:
        """Begins with the file of the epoch that ends there; without one (save_frequency) there is nothing to do."""
        if (self._folder / name_of(at)).exists():
            self._begun.append(self._thread.submit(self._publish, at, loss))

    def look(self) -> None:
        while self._begun and self._begun[0].done():
            self._begun.pop(0).result()

    def settle(self) -> None:
        while self._begun:
            self._begun.pop(0).result()

    def close(self) -> None:
        self._thread.shutdown()

    # --- the thread ---

    def _publish(self, at: Position, loss: float | None) -> None:
        relative = name_of(at)
        path = self._folder / relative
        if self.not_finite:
            return
        if problem := damage(path, None):
            self._recorder.event(EventKind.NOTICE, at, text=f"{relative} is not published: {problem}")
            return
        if not _is_finite(path):
            self._recorder.event(EventKind.NOTICE, at, text=f"{relative} is not published: its weights are not finite")
            self.not_finite = at
            return
        _make_durable(path)
        manifest = manifest_of(self._attempt, at, loss, path, digest(path))
        if not self._still_mine():
            raise Fenced(f"{path.name} is not published: another attempt or job holds the run")
        write_atomic(manifest_path(path), dumps(manifest))
        self._recorder.event(EventKind.CHECKPOINT, at, **published_as(relative, manifest))
        self.newest = relative
        prune(self._attempt, path, manifest)


def _make_durable(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def _is_finite(path: Path) -> bool:
    import torch  # seconds: not before there is a checkpoint

    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    return all(bool(tensor.isfinite().all()) for tensor in state.values())
