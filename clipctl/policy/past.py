"""A timeline as a history that policy can look at. What people did is what happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clipctl.domain import (
    AttemptRecord,
    CheckpointRecord,
    CheckpointState,
    Form,
    History,
    Incident,
    IncidentKind,
    RecoverySpec,
    RunState,
)
from clipctl.lineage import position
from clipctl.policy.parents import parent_after
from clipctl.policy.replay import Moment, ReplayView, answers, told
from clipctl.policy.settings import settings_digest
from clipctl.spec.timeline import Changed, Happening, Timeline
from trainer.contract import CheckpointManifest, Parent, Precision, Stream, dumps

DAY = 86_400.0
FAR = 1000  # epochs between troubles whose place is not told: only their order counts
EPOCH = 1_000_000  # samples: only ratios count
_LIVE = frozenset({IncidentKind.HUNG, IncidentKind.SLOW, IncidentKind.NEVER_RUNNABLE})
_PATHS = {"precision": "precision", "lr": "optim.lr", "beta2": "optim.beta2", "grad_clip_norm": "optim.grad_clip_norm"}


def replay_timeline(timeline: Timeline) -> ReplayView:
    """At each trouble policy looks at the history up to there."""
    past = _Past.of(timeline)
    moments = []
    for each in timeline.happenings:
        history = past.trouble(each)
        incident, placed = history.attempts[-1].incident, each.epoch is not None
        assert incident is not None
        moments.append(
            Moment(
                when=each.when,
                what=told(incident, placed=placed),
                clipctl=answers(history, past.recovery, placed=placed),
                people=each.people,
                sources=each.sources,
            )
        )
        past.go_on(each, history)
    return ReplayView(title=timeline.title, sources=timeline.sources, moments=tuple(moments))


@dataclass
class _Past:
    recovery: RecoverySpec
    profiles: Mapping[Precision, Mapping[str, Any]]
    train: dict[str, Any]
    ranks: int
    attempts: list[AttemptRecord] = field(default_factory=list)
    checkpoints: list[CheckpointRecord] = field(default_factory=list)
    parent: CheckpointRecord | Parent | None = None

    @classmethod
    def of(cls, timeline: Timeline) -> _Past:
        if timeline.preset is None:
            return cls(timeline.recovery, {}, _changed({"optim": {}}, timeline.settings), ranks=2)
        from clipctl.spec import resolve

        spec = resolve(timeline.preset)
        profiles = {
            precision: {f"train.{path}": value for path, value in settings.items()}
            for precision, settings in spec.precisions.items()
        }
        return cls(spec.recovery, profiles, json.loads(dumps(spec.train)), spec.ranks)

    def trouble(self, each: Happening) -> History:
        """The history when the next attempt had got into this."""
        number = len(self.attempts) + 1
        done = self._epochs_done(each)
        if each.saved:
            begin = max(position(self.parent)[0] if self.parent else 0, done - FAR // 2)
            self.checkpoints += [_checkpoint(number, epochs) for epochs in range(begin + 1, done + 1)]
        alive = each.kind in _LIVE or each.form in (Form.SPIKE, Form.PLATEAU)
        incident = Incident(
            kind=each.kind, attempt=number, detail=each.detail, form=each.form, epoch=done + 1,
            samples_seen=done * EPOCH + 1, rise=True, alive=alive,
        )  # fmt: skip
        parent = self.parent
        self.attempts.append(
            AttemptRecord(
                number=number,
                parent_digest=parent.manifest.digest if isinstance(parent, CheckpointRecord) else None,
                parent_path=parent.path if parent else None,
                settings_digest=settings_digest(self.train, self.ranks),
                train=self.train,
                patch={},
                ranks=self.ranks,
                created_at=number * DAY,
                ended_at=(number + 0.5) * DAY,
                incident_at=number * DAY,
                incident=incident,
            )
        )
        return History(
            run="past",
            state=RunState.STOPPED,
            attempts=tuple(self.attempts),
            checkpoints=tuple(self.checkpoints),
            profiles=self.profiles,
            exclude=None,
        )

    def _epochs_done(self, each: Happening) -> int:
        if each.epoch is not None:
            return each.epoch - 1
        last = max((item.manifest.epochs_done for item in self.checkpoints), default=0)
        return last + FAR if each.saved else last

    def go_on(self, each: Happening, history: History) -> None:
        """As people did. Where they started from is policy's choice, if it is not told."""
        self.train = _changed(self.train, each.changed)
        self.parent, _ = parent_after(history, history.attempts[-1].incident, self.recovery)
        if each.restart_epoch is not None:
            wanted = each.restart_epoch - 1
            found = (item for item in reversed(self.checkpoints) if item.manifest.epochs_done == wanted)
            self.parent = next(found, self.parent)


def _changed(train: Mapping[str, Any], changed: Changed) -> dict[str, Any]:
    new = {**train, "optim": dict(train["optim"])}
    for name, path in _PATHS.items():
        if (value := getattr(changed, name)) is not None:
            section, _, key = path.rpartition(".")
            (new["optim"] if section else new)[key] = value
    return new


def _checkpoint(attempt: int, epochs: int) -> CheckpointRecord:
    name = f"epoch_{epochs}.pt"
    manifest = CheckpointManifest(
        file=name, size=1, digest=f"{attempt}-{epochs}", run="past", attempt=attempt, epochs_done=epochs, step=epochs,
        step_in_epoch=0, samples_seen=epochs * EPOCH, loss=None, finite=True, precision=Precision.FP32,
        stream=Stream(batch_size=1, ranks=1, workers=0), time=0.0,
    )  # fmt: skip
    return CheckpointRecord(path=f"attempts/{attempt}/{name}", manifest=manifest, state=CheckpointState.VERIFIED)
