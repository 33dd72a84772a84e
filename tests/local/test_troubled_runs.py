"""Real ranks that get stuck or hang, and what a reader that starts anew for each look makes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clipctl.backends.local import LocalBackend
from clipctl.domain import Form, Incident, IncidentKind, JobHandle, Limits, Patience
from clipctl.layout import RunFolder
from clipctl.ops import execute
from clipctl.ops.clock import SystemClock
from clipctl.ops.execute import Start
from clipctl.ops.observe import Observation, observe
from clipctl.spec import load_cluster, resolve
from clipctl.store import open_store

# A rehearsal of 40 steps an epoch, told one by one, that would go on for minutes.
ENDLESS = (
    "train.engine=rehearsal",
    "resources.ranks_per_node=2",
    "train.precision=amp_fp16",
    "train.batch_size=500",
    "train.data.train_num_samples=40000",
    "train.epochs=10000",
    "train.log_every_n_steps=1",
    "train.optim.lr=1e-2",
    "train.rehearsal.step_seconds=0.005",
    "train.save.keep_last=3",
    "train.zeroshot=null",
)
LIMITS = Limits(lost_after=0, poll_every=0, patience=Patience(training=2.0, look=1.0))
BACKEND, CLOCK = LocalBackend(), SystemClock()


@contextmanager
def running(home: Path, *faults: str) -> Iterator[Callable[[], Observation]]:
    """A run on this machine; what is yielded looks at it as a process of its own would. At last it is killed."""
    spec = resolve("demo", sets=[*ENDLESS, f"train.faults=[{', '.join(faults)}]"], name="troubled")
    cluster = load_cluster("local").model_copy(update={"limits": LIMITS})
    start = Start(spec=spec, cluster=cluster, folder=RunFolder.of(home, spec.name))
    with open_store(home) as store:
        nonce = execute.begin(start, actor="ada", store=store, backend=BACKEND, clock=CLOCK).identity.nonce

    def look() -> Observation:
        with open_store(home) as store:
            (seen,) = observe([store.job(nonce)], backend=BACKEND, limits=LIMITS, store=store, clock=CLOCK)
        return seen

    try:
        yield look
    finally:
        BACKEND.cancel(JobHandle(identity=look().job.identity), force=True)


def first_incident(look: Callable[[], Observation]) -> tuple[Incident, Observation]:
    end = time.monotonic() + 120
    while (seen := look()).incident is None:
        assert time.monotonic() < end, seen.evidence
        time.sleep(0.1)
    return seen.incident, seen


def test_a_plateau_is_found_while_the_run_goes_on(home: Path) -> None:
    with running(home, "{kind: plateau, at_epoch: 3, at_step: 5}") as look:
        incident, seen = first_incident(look)
        assert (incident.kind, incident.form, incident.alive) == (IncidentKind.DIVERGED, Form.PLATEAU, True)
        # Exactly (3, 5) where the look came in time; where it came late, the last step that is known to have been good.
        assert (2, 20) <= (incident.epoch or 0, incident.step_in_epoch or 0) <= (3, 5), incident.lines
        assert "guessing gives 6.908" in incident.detail, "ln(1000)"
        assert not seen.over
        assert look().incident == incident or look().incident is not None, "told at each look, until something is done"


def test_a_rank_that_hangs_is_found_by_the_readers_own_clock(home: Path) -> None:
    with running(home, "{kind: hang, at_epoch: 2, at_step: 3, rank: 1}") as look:
        incident, seen = first_incident(look)
        assert (incident.kind, incident.alive) == (IncidentKind.HUNG, True)
        assert incident.detail.startswith("nothing moved for 2 s while training")
        assert "epoch 2" in incident.lines[1]
        assert not seen.over
        assert seen.evidence.pulse is not None and seen.evidence.pulse.silent_for >= 2.0
