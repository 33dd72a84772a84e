"""For how long nothing has moved, by the clock of who looks: no other host's clock is ever asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainer.contract import Heartbeat


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """As it is kept between looks, whoever looked. Seconds count only while the job was seen running."""

    looked_at: float
    counter: int | None = None  # of the heartbeat; None: there is none yet
    samples_seen: int | None = None
    silent_for: float = 0.0  # since `counter` last changed
    idle_for: float = 0.0  # since `samples_seen` last changed: a job that beats may be dead all the same


def felt(before: Pulse | None, beat: Heartbeat | None, *, now: float, running: bool, longest: float) -> Pulse:
    """`before`, moved on by a look at `now`, to which at most `longest` seconds are counted.

    So a clock that jumps by an hour, or a reader that slept for a day, is no sign that the job did nothing.
    """
    if before is None:
        before = Pulse(looked_at=now)
    if beat is None and before.counter is not None:  # a file that was there is not shown just now: nothing is known
        return replace(before, looked_at=now)
    counter, samples = (beat.counter, beat.samples_seen) if beat else (None, None)
    passed = min(max(now - before.looked_at, 0.0), longest) if running else 0.0
    return Pulse(
        looked_at=now,
        counter=counter,
        samples_seen=samples,
        silent_for=before.silent_for + passed if counter == before.counter else 0.0,
        idle_for=before.idle_for + passed if samples == before.samples_seen else 0.0,
    )
