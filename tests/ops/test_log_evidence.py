"""What of a job's logs becomes evidence: the node that srun named, however much it printed after that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clipctl.domain import Incident, IncidentKind, JobReport, JobState
from tests.ops.test_resume import Stages
from tests.ops.theatre import Scheduler, Stage
from trainer import contract
from trainer.contract import Exit

NAMED = "srun: error: Task launch for StepId=17.0 failed on node n4: Unspecified error"
AFTER = [f"srun: error: n{number}: task {number}: Killed" for number in range(96)]


class Restarted(Scheduler):
    """Its site has started the same job again."""

    def _report(self, nonce: str) -> JobReport:
        return replace(super()._report(nonce), restarts=1)


def fails(run: Stage, *script: str) -> Incident:
    job = run.launch().identity
    folder = run.folder.job(job.nonce)
    folder.logs.mkdir(exist_ok=True)
    (folder.logs / "script.log").write_text("".join(f"{line}\n" for line in script))
    (folder.logs / "rank_0.log").write_text("place\n")
    contract.write_atomic(folder.exit, contract.dumps(Exit(code=137, time=run.time.now())))
    run.scheduler.jobs[job.nonce] = JobState.FAILED
    incident = run.look().incident
    assert incident is not None
    return incident


def test_a_node_that_was_named_long_before_the_end(stage: Stages) -> None:
    incident = fails(stage(), "claimed", NAMED, *AFTER)
    assert (incident.kind, incident.nodes) == (IncidentKind.NODE_FAILED, ("n4",))
    assert incident.lines[1:] == (NAMED, *AFTER[-3:], "place")


@pytest.mark.parametrize("script", [[NAMED], ["claimed", NAMED, *AFTER[:2]]])
def test_a_line_is_evidence_once(stage: Stages, script: list[str]) -> None:
    incident = fails(stage(), *script)
    assert incident.lines.count(NAMED) == 1


def test_what_an_earlier_start_of_the_job_met_is_not_this_ones_end(stage: Stages) -> None:
    run = stage()
    run.scheduler = Restarted(run.time)
    incident = fails(run, NAMED, *AFTER)
    assert (incident.kind, incident.nodes) == (IncidentKind.CRASHED, ())
