"""The trouble of a past run as its own people told it: facts with their sources, for today's policy to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from clipctl.domain import Form, IncidentKind, RecoverySpec
from clipctl.errors import InvalidSpec, NotFound
from clipctl.presets import timeline_file, timeline_names
from clipctl.spec.model import Frozen
from clipctl.spec.words import explained, nearest, shown
from clipctl.spec.yaml import read_document
from trainer.contract import Count, Precision

Line = Annotated[str, Field(min_length=1)]


class Changed(Frozen):
    """Settings that policy knows; None: as before, or not told."""

    precision: Precision | None = None
    lr: float | None = None
    beta2: float | None = None
    grad_clip_norm: float | None = None


class Happening(Frozen):
    """One trouble, and what people did about it."""

    when: Line  # in the source's own words
    kind: IncidentKind
    form: Form | None = None
    detail: Line
    epoch: Count | None = None  # in which it began; None: not told
    saved: bool = True  # whether a checkpoint was written since the last trouble
    people: Line
    changed: Changed = Changed()  # by people, as far as policy knows such settings
    restart_epoch: Count | None = None  # with which they went on; None: not told
    sources: Annotated[tuple[str, ...], Field(min_length=1)]  # keys of the timeline's sources


class Timeline(Frozen):
    title: Line
    sources: Mapping[str, str]
    preset: str | None = None  # whose settings and recovery hold
    settings: Changed = Changed()  # at the start, where there is no preset
    recovery: RecoverySpec = RecoverySpec()
    happenings: Annotated[tuple[Happening, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _sourced(self) -> Timeline:
        """Nothing stands here that nobody said."""
        for each in self.happenings:
            for source in each.sources:
                if source not in self.sources:
                    raise ValueError(f"{each.when}: {shown(source)} is none of the sources")
        return self


def load_timeline(argument: str) -> Timeline:
    """A shipped one by its name, or a file. NotFound, or InvalidSpec with every mistake."""
    path = Path(argument) if "/" in argument or argument.endswith((".yaml", ".yml")) else timeline_file(argument)
    if path is None:
        near = nearest(argument, timeline_names())
        instead = f"did you mean {near}?" if near else f"timelines are {', '.join(timeline_names())}"
        raise NotFound(f"no run and no timeline {shown(argument)}; {instead}", "clipctl status --all")
    document = read_document(path)
    try:
        return Timeline.model_validate(document.tree)
    except ValidationError as error:
        lines = (explained(item, ()).line(str(path)) for item in error.errors(include_url=False))
        raise InvalidSpec(tuple(lines)) from error
