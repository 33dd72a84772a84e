"""Where jobs are submitted. One small protocol; what a backend cannot know, it says: Unknown, Unobservable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from clipctl.domain import (
    Accepted,
    JobHandle,
    JobIdentity,
    JobReport,
    QueueSnapshot,
    Rejected,
    Unknown,
    Unobservable,
)


class Backend(Protocol):
    def submit(self, script: Path, identity: JobIdentity) -> Accepted | Rejected | Unknown:
        """Submits `script` (jobs/<nonce>/submission.sh) once. Unknown: look it up with `find`, never submit again."""

    def poll(self, jobs: Sequence[JobIdentity]) -> QueueSnapshot | Unobservable:
        """All own jobs, in one query. `jobs`: those asked about; only for ones that left the queue is more asked."""

    def find(self, identity: JobIdentity) -> JobReport | Unobservable | None:
        """One job by what makes it ours, whatever its scheduler id. None: an answer, and the job is not in it."""

    def cancel(self, job: JobHandle, *, force: bool) -> None:
        """Asks the job to stop; it may save. `force`: ends every process of it. Unavailable: that did not succeed."""
