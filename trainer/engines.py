"""What computes the steps of an attempt, and the only place that chooses: a table of modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol, cast

from trainer.charts import Charts
from trainer.contract import Attempt, Engine, TrainSpec
from trainer.flight import Recorded
from trainer.loop import Ranks, Source, Trainee
from trainer.place import Place
from trainer.position import Position
from trainer.signals import StopRequest


class ClosableRanks(Ranks, Recorded, Protocol):
    def close(self) -> None: ...


class ClosableSource(Source, Protocol):
    def close(self) -> None: ...


class Equipment(Protocol):
    """One rank's. Its ranks have met before anything else is done; then comes its source, then `load`, and the rest."""

    ranks: ClosableRanks
    trainee: Trainee
    device: str
    versions: Mapping[str, str]  # of the device, where it has some

    def load(self, state: Mapping[str, Any] | None) -> tuple[str, ...]:
        """Makes the trainee; None: with random weights, the same on all ranks. Returns notices."""

    def source(self, at: Position) -> ClosableSource:
        """Reads ahead while the trainee is made; its processes are forked before that, and hold none of its memory."""

    def evaluate(self) -> Mapping[str, Any]:
        """Zero-shot accuracy, or {"error": ...}: never the end of the run."""


class EngineModule(Protocol):
    open_charts: Callable[[Path], Charts] | None  # in this folder; None: it draws none

    def equip(self, spec: TrainSpec, where: Place) -> Equipment: ...
    def write(self, payload: Mapping[str, Any], file: IO[bytes]) -> None:
        """A checkpoint, front to back: the file may be one that cannot seek."""

    def read(self, path: Path) -> dict[str, Any]:
        """Unusable where it is no checkpoint of this engine's."""


WRAPPED = {Engine.OPEN_CLIP: "trainer.wrapper.rank"}  # programs with a loop of their own
ENGINES = {Engine.TORCH: "trainer.torch_engine", Engine.REHEARSAL: "trainer.rehearsal.engine"}


def runner(engine: Engine) -> Callable[[Attempt, Path, StopRequest], int]:
    """What runs one rank of an attempt, and returns its exit code."""
    return cast(Callable[[Attempt, Path, StopRequest], int], import_module(WRAPPED.get(engine, "trainer.rank")).run)


def engine_module(engine: Engine) -> EngineModule:
    """Imported only where it is chosen: torch and open_clip take ten seconds."""
    return cast(EngineModule, import_module(ENGINES[engine]))
