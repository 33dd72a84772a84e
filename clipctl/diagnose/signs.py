"""Early signs of trouble: worth a line to whoever looks. None of them ends a job."""

from __future__ import annotations

import math
from collections.abc import Iterator

from clipctl.diagnose.divergence import current_rise, level_of
from clipctl.diagnose.losses import HELD, Course, course, middle, settled, span
from clipctl.domain import Evidence, Limits, LossLimits
from clipctl.series import Point


def early_signs(evidence: Evidence, limits: Limits) -> tuple[str, ...]:
    """A sentence each; none of the losses where their series was not read."""
    if evidence.diverged is not None or not evidence.series:
        return ()
    points = [point for point in evidence.series.points if settled(point, limits.loss)]
    of = limits.loss
    return (*_spike(evidence, limits), *_loss_scale(points, of), *_gradients(points, of), *_patch_rms(points, of))


def _spike(evidence: Evidence, limits: Limits) -> Iterator[str]:
    found = current_rise(evidence, limits)
    if found is None or (how := course(found, limits.loss)) is Course.STAYS:
        return
    since = f"since epoch {found.onset.epoch}, step {found.onset.step_in_epoch}"
    yield f"the loss rose from {level_of(found):.4g} to {found.points[-1].loss:.4g} {since}; it {how.value}"


def _loss_scale(points: list[Point], limits: LossLimits) -> Iterator[str]:
    """float16's search for its scale is over once a start has settled; many halvings later are not regained."""
    recent = [point for point in points if point.scale and span((point, points[-1])) <= limits.scale_steps]
    if not recent or points[-1].scale is None or recent[-1].attempt != recent[0].attempt:
        return
    highest, newest = max(point.scale or 0.0 for point in recent), recent[-1].scale or 0.0
    if newest * 2**limits.scale_halvings <= highest:
        yield f"the loss scale fell from {highest:g} to {newest:g} within {limits.scale_steps} steps"


def _gradients(points: list[Point], limits: LossLimits) -> Iterator[str]:
    norms = [point.grad_norm for point in points if point.grad_norm is not None and math.isfinite(point.grad_norm)]
    if len(norms) <= HELD:
        return
    own = middle(norms[:-1])
    if norms[-1] > limits.norm_rise * own:
        yield f"the gradient norm is {norms[-1]:.4g}, where {own:.4g} is usual"


def _patch_rms(points: list[Point], limits: LossLimits) -> Iterator[str]:
    newest = points[-1].patch_rms if points else None
    if newest is not None and newest > limits.patch_rms:
        yield (
            f"the patch embedding's gradient is {newest:.3g} times what AdamW expects: "
            f"above {limits.patch_rms:g} the loss often spikes within eight steps"
        )
