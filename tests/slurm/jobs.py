"""Small jobs with clipctl's marks, submitted by the backend to a test's cluster."""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from clipctl.backends.slurm import SlurmBackend
from clipctl.domain import Accepted, JobIdentity, JobReport, JobState, Limits, QueueSnapshot, Rejected, Unknown
from tests.cluster import Cluster

IMPATIENT = Limits(query_timeout=1, submit_timeout=3)  # for a controller that is not going to answer


@dataclass
class Jobs:
    cluster: Cluster
    root: Path  # of run folders; its name is one that a careless command would trip over
    limits: Limits = Limits(query_timeout=20, submit_timeout=20)
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def backend(self) -> SlurmBackend:
        return SlurmBackend(self.limits, young=0.0)

    def identity(self, **changes: object) -> JobIdentity:
        """A new intent, now: of the one run of this test if nothing else is said. Accounting never forgets, so names
        and nonces are not used again."""
        new = JobIdentity(
            run="demo", run_id=self.run_id, attempt=1, nonce=secrets.token_hex(8), submitted_at=time.time()
        )
        return replace(new, **changes)  # type: ignore[arg-type]

    def of_another_run(self) -> JobIdentity:
        return self.identity(run_id=secrets.token_hex(4))

    def script(self, identity: JobIdentity, body: str, **options: str) -> Path:
        """As clipctl's own, as far as Slurm is concerned."""
        run = self.root / "runs" / identity.run
        folder = run / "jobs" / identity.nonce
        folder.mkdir(parents=True)
        given = {"job-name": identity.job_name, "comment": identity.comment, "time": "1:00:00", "output": "/dev/null"}
        lines = [f"#SBATCH --{option}={text}" for option, text in (given | options).items()]
        lines += [
            f"#SBATCH --chdir={shlex.quote(str(run))}",
            "#SBATCH --no-requeue",
            "#SBATCH --dependency=singleton",
        ]
        script = folder / "submission.sh"
        script.write_text("\n".join(["#!/bin/bash", *lines, body, ""]))
        return script

    def try_submit(
        self, body: str = "sleep 300", *, identity: JobIdentity | None = None, **options: str
    ) -> tuple[JobIdentity, Accepted | Rejected | Unknown]:
        identity = identity or self.identity()
        script = self.script(identity, body, **{name.replace("_", "-"): text for name, text in options.items()})
        return identity, self.backend.submit(script, identity)

    def submit(self, body: str = "sleep 300", *, identity: JobIdentity | None = None, **options: str) -> JobIdentity:
        """A job that was accepted as it was written."""
        identity, answer = self.try_submit(body, identity=identity, **options)
        assert isinstance(answer, Accepted) and answer.differences == (), answer
        return identity

    def poll(self, identity: JobIdentity) -> JobReport | None:
        answer = self.backend.poll([identity])
        assert isinstance(answer, QueueSnapshot), answer
        return answer.jobs.get(identity.nonce)

    def until(self, identity: JobIdentity, so: Callable[[JobReport], bool], patience: float = 60.0) -> JobReport:
        limit = time.monotonic() + patience
        while not ((report := self.poll(identity)) and so(report)):
            assert time.monotonic() < limit, report
            time.sleep(0.2)
        return report

    def until_state(self, identity: JobIdentity, *states: JobState) -> JobReport:
        return self.until(identity, lambda report: report.state in states)

    def ids(self, *identities: JobIdentity) -> list[str]:
        """Of all jobs under these runs' names, as Slurm itself lists them, oldest first."""
        names = ",".join(identity.job_name for identity in identities)
        listed = self.cluster.run("squeue", "-h", "-t", "all", f"--name={names}", "-o", "%A").stdout.split()
        return sorted(listed, key=int)
