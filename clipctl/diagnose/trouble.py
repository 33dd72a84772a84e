"""What troubles a job that has not ended: it hangs, waits for what never comes, cannot save, or is far too slow."""

from __future__ import annotations

import math
from collections.abc import Sequence

from clipctl.diagnose.finding import finding, number, where, whole_number
from clipctl.diagnose.losses import FEW, middle, settled
from clipctl.domain import Evidence, Incident, IncidentKind, JobState, Limits, Patience
from clipctl.reasons import waiting
from clipctl.series import Point
from trainer.contract import Heartbeat, Phase

OWN = 8  # points that make a pace of its own


def hung(evidence: Evidence, limits: Limits) -> Incident | None:
    """Only of a job that the scheduler says is running, and by the reader's own time."""
    job, beat, pulse = evidence.job, evidence.heartbeat, evidence.pulse
    if job is None or job.state is not JobState.RUNNING or pulse is None:
        return None
    if beat is None or pulse.counter is None:
        patience = limits.first_sign
        if beat is not None or pulse.counter is not None or pulse.silent_for < patience:
            return None
        return _hung(evidence, f"no sign of life for {pulse.silent_for:.0f} s of running", f"patience {patience:.0f} s")
    patience = limits.patience.of(beat.phase, seconds_per_step(evidence))
    if pulse.silent_for >= patience:
        return _hung(evidence, f"nothing moved for {pulse.silent_for:.0f} s while {beat.phase}", _beat(beat, patience))
    patience = _without_samples(beat, patience, limits.patience)
    if pulse.idle_for >= patience:
        detail = f"its heart beats, but no sample was seen for {pulse.idle_for:.0f} s"
        return _hung(evidence, detail, _beat(beat, patience))
    return None


def _without_samples(beat: Heartbeat, of_phase: float, patience: Patience) -> float:
    """Between two steps there may be a save and an evaluation."""
    if beat.phase in (Phase.TRAINING, Phase.STARTING):
        return of_phase
    return patience.training + patience.checkpointing + patience.evaluating


def _hung(evidence: Evidence, detail: str, line: str) -> Incident:
    job = f"scheduler: job {evidence.job.scheduler_id} {evidence.job.state}" if evidence.job else ""
    return finding(evidence, IncidentKind.HUNG, detail, alive=True, lines=(job, line))


def _beat(beat: Heartbeat, patience: float) -> str:
    place = f"epoch {beat.epoch}, step {beat.step}, {beat.samples_seen} samples"
    return f"heartbeat {beat.counter}: {beat.phase}, {place}; patience {patience:.0f} s"


def seconds_per_step(evidence: Evidence) -> float | None:
    """The run's own, by its newest progress."""
    if evidence.progress is None or evidence.started is None:
        return None
    pace = number(evidence.progress.facts.get("samples_per_second"))
    facts = {"accum_freq": 1, **evidence.started.facts}
    batch, accum, ranks = (whole_number(facts.get(name)) for name in ("batch_size", "accum_freq", "ranks"))
    return batch * accum * ranks / pace if pace and pace > 0 and batch and accum and ranks else None


def never_runnable(evidence: Evidence) -> Incident | None:
    reason = waiting(evidence.job) if evidence.job else None
    if evidence.job is None or reason is None or not reason.never:
        return None
    line = f"scheduler: job {evidence.job.scheduler_id} {evidence.job.state}, reason {evidence.job.reason}"
    return finding(evidence, IncidentKind.NEVER_RUNNABLE, reason.text, alive=True, passes=False, lines=(line,))


def unsaved(evidence: Evidence) -> Incident | None:
    """Its disk refused the newest checkpoint. The trainer bears that once, and training goes on to the next save."""
    said = evidence.progress.facts.get("unsaved") if evidence.progress else None
    if evidence.progress is None or not isinstance(said, str):
        return None
    line = where(evidence.progress, said)
    return finding(evidence, IncidentKind.STORAGE, f"{said}; a second refusal ends it", alive=True, lines=(line,))


def slow(evidence: Evidence, limits: Limits) -> Incident | None:
    """Of a running job: one rank against its peers, or all against the pace they once had."""
    if evidence.job is None or evidence.job.state is not JobState.RUNNING or not evidence.series:
        return None
    points = [point for point in evidence.series.points if settled(point, limits.loss)]
    return _waits_for_one(evidence, points, limits) or _below_its_own(evidence, points, limits)


def _waits_for_one(evidence: Evidence, points: Sequence[Point], limits: Limits) -> Incident | None:
    """All wait for one and the same rank, and without that would be twice as fast."""
    newest = points[-FEW:]
    ranks = {point.slowest for point in newest}
    behind = [point.behind or 0.0 for point in newest]
    if len(newest) < FEW or len(ranks) > 1 or min(behind) <= 1 - limits.loss.pace:
        return None
    rank = newest[-1].slowest
    assert rank is not None  # or nobody would be behind
    detail = f"all wait for rank {rank}{_on_node(evidence, rank)} for {middle(behind):.0%} of the time"
    return _slow(evidence, detail, newest, ranks=(rank,))


def _on_node(evidence: Evidence, rank: int) -> str:
    nodes = evidence.started.facts.get("nodes") if evidence.started else None
    return f" on {nodes[rank]}" if isinstance(nodes, list) and rank < len(nodes) else ""


def _below_its_own(evidence: Evidence, points: Sequence[Point], limits: Limits) -> Incident | None:
    """With the same precision and batch."""
    points = [point for point in points if point.pace is not None and math.isfinite(point.pace)]
    if len(points) < OWN + FEW:
        return None
    paces = [point.pace or 0.0 for point in points]
    own, newest = middle(paces[:-FEW]), paces[-FEW:]
    if max(newest) >= limits.loss.pace * own:
        return None
    detail = f"{middle(newest):.4g} samples/s, where {own:.4g} are its own pace"
    return _slow(evidence, detail, points[-FEW:])


def _slow(evidence: Evidence, detail: str, points: Sequence[Point], ranks: tuple[int, ...] = ()) -> Incident:
    lines = tuple(f"event {point.seq}: epoch {point.epoch}, step {point.step}: {_pace(point)}" for point in points)
    return finding(evidence, IncidentKind.SLOW, detail, at=points[0], ranks=ranks, alive=True, lines=lines)


def _pace(point: Point) -> str:
    pace = None if point.pace is None else f"{point.pace:.4g} samples/s"
    waits = None if point.waiting is None else f"{point.waiting:.0%} of the time waiting for data"
    slowest = None if point.behind is None else f"{point.behind:.0%} of it waiting for rank {point.slowest}"
    return ", ".join(said for said in (pace, waits, slowest) if said)
