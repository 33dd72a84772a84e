"""Does the loss rise, does it come back, is it stuck? Robust statistics over progress; plain numbers, no incidents.

A loss is told as a share of ln(global batch), which is what guessing gives, so that attempts with different batches
compare. Its level is the lowest median that it held, so that neither noise nor the stairs of epochs look like a rise,
and a drift of many epochs does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from clipctl.domain import LossLimits, Series
from clipctl.series import Point

HELD = 5  # points whose median is a level
FEW = 3  # points: fewer say nothing


class Course(Enum):
    """Of a rise that goes on."""

    MAY_RETURN = "may come back by itself"
    SLOW = "is on its way back, slowly"
    STAYS = "does not come back"


@dataclass(frozen=True, kw_only=True)
class Rise:
    level: float  # the share that it rose from
    held: Point  # the newest of those points
    points: tuple[Point, ...]  # from the onset to the newest

    @property
    def onset(self) -> Point:
        return self.points[0]


def share(point: Point) -> float:
    """Of guessing; 1 for a model that does."""
    return point.loss / math.log(max(point.batch, 2))


def telling(series: Series, limits: LossLimits) -> tuple[Point, ...]:
    """Those whose loss says something about the model: not in warm-up, nor just after a start or an epoch's border."""
    return tuple(
        point
        for point in series.points
        if math.isfinite(point.loss) and point.step > series.warmup and settled(point, limits)
    )


def settled(point: Point, limits: LossLimits) -> bool:
    unrest = _within(limits.settle_steps, limits.settle_epochs, point)
    return point.step_in_epoch > unrest and point.since_start > unrest


def rise(points: Sequence[Point], limits: LossLimits) -> Rise | None:
    """The rise that goes on at the end of `points`; None: there is none, or it is over."""
    shares = [share(point) for point in points]
    noise = _noise(points, shares)
    level, held, first = math.inf, -1, -1  # -1: none yet
    for index, now in enumerate(shares):
        margin = max(limits.rise * (1 - level), limits.deviations * noise)
        if first < 0 and level < limits.plateau and now > level + margin:
            first = index
        elif first >= 0 and middle(shares[max(first, index - FEW + 1) : index + 1]) <= level + margin / 2:
            first = -1
        if first < 0 and index + 1 >= HELD and (median := middle(shares[index + 1 - HELD : index + 1])) < level:
            level, held = median, index
    if first < 0:
        return None
    noise = _noise(points[:first], shares[:first])  # what is stuck has less of it
    margin = max(limits.rise * (1 - level), limits.deviations * noise)
    plain = max(3 * noise, margin / 10)
    while first > 0 and shares[first - 1] > level + plain:  # it had left its level before it was sure
        first -= 1
    first = _known_good(points, first)
    return Rise(level=level, held=points[held], points=tuple(points[first:]))


def course(found: Rise, limits: LossLimits) -> Course:
    steps, window = span(found.points), _within(limits.return_steps, limits.return_epochs, found.onset)
    if steps < window or len(found.points) < FEW:
        return Course.MAY_RETURN
    shares = [share(point) for point in found.points]
    peak = max(middle(shares[index : index + FEW]) for index in range(len(shares) - FEW + 1))
    returns = middle(shares[-FEW:]) <= peak - (peak - found.level) / 4 and steps < limits.slow_returns * window
    return Course.SLOW if returns else Course.STAYS


def guesses(found: Rise, limits: LossLimits) -> bool:
    """Whether it has risen to where guessing is, for too short a time to call it stuck."""
    return middle(map(share, found.points[-FEW:])) >= limits.plateau


def plateau(points: Sequence[Point], found: Rise | None, limits: LossLimits) -> tuple[Point, ...]:
    """The points at the end that are stuck where guessing is, if they are enough to say so."""
    first = len(points)
    while first > 0 and share(points[first - 1]) >= limits.plateau:
        first -= 1
    stuck = tuple(points[first:])
    if len(stuck) < FEW:
        return ()
    if found is not None:
        enough = _within(limits.sustained_steps, limits.sustained_epochs, stuck[0])
    else:  # it never was much lower, as far as can be seen: it may only learn slowly
        enough = max(limits.slow_start_epochs * stuck[0].steps_per_epoch, limits.slow_start_steps)
    return tuple(points[_known_good(points, first) :]) if span(stuck) >= enough else ()


def _known_good(points: Sequence[Point], first: int) -> int:
    """Where not all is known of what lies before `first`, it may have begun right after the point before that."""
    return first - 1 if first > 0 and points[first - 1].sparse else first


def span(points: Sequence[Point]) -> float:
    """Steps from the first to the last, in the last one's geometry."""
    return (points[-1].samples_seen - points[0].samples_seen) / points[-1].batch


def middle(values: Iterable[float]) -> float:
    """The median; of an even number the lower one of the two."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


def _noise(points: Sequence[Point], shares: Sequence[float]) -> float:
    """Standard deviation from point to point, within an epoch, whatever a few outliers do."""
    pairs = list(pairwise(range(len(points))))
    inside = [(one, other) for one, other in pairs if _same_stair(points[one], points[other])]
    steps = [abs(shares[one] - shares[other]) for one, other in (inside if len(inside) >= HELD else pairs)]
    return 1.4826 * middle(steps) / math.sqrt(2) if steps else 0.0


def _same_stair(one: Point, other: Point) -> bool:
    return (one.attempt, one.epoch) == (other.attempt, other.epoch)


def _within(steps: float, epochs: float, point: Point) -> float:
    """So many steps, or less where epochs are short."""
    return min(steps, epochs * point.steps_per_epoch)
