"""Jobs of a Slurm cluster. Only sbatch is started by submitit; every question goes through a Transport.

A poll is one squeue, one sacct for jobs that have left the queue or were cancelled, and one scontrol for the sizes of
partitions while a job waits, and for the nodes of jobs that may have ended by one: whatever the number of runs.
Accounting is a bonus: where there is none, or it is late or down, the jobs that squeue has forgotten are absent from
the answer, and the trainer's own files say the rest.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from clipctl.backends import slurm_codec as codec, slurm_nodes as nodes
from clipctl.backends.comparison import differences
from clipctl.backends.slurm_codec import Row
from clipctl.backends.slurm_nodes import NodeReport
from clipctl.backends.transport import NOT_FOUND, Completed, Here, Transport, with_only
from clipctl.directives import parse_directives
from clipctl.domain import (
    Accepted,
    JobHandle,
    JobIdentity,
    JobReport,
    JobState,
    Limits,
    QueueSnapshot,
    Rejected,
    Unknown,
    Unobservable,
)
from clipctl.errors import Unavailable

# All that Slurm's commands see of the caller's environment. SBATCH_* and SLURM_* would override the script, SQUEUE_*
# and SACCT_* would filter what is listed.
KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SLURM_CONF", "TZ")
ACCOUNTING_PATIENCE = 10.0  # seconds at most: a frozen database must not hold up a poll
ACCOUNTING_LAG = 60.0  # seconds; a record that is later than that is not waited for
GONE = ("Invalid job id specified", "Job/step already completing or completed")


class SlurmBackend:
    """`uid`: whose jobs they are, where the commands run. `young`: seconds in which a job has nothing to save yet, and
    may not have come to where it hears a signal."""

    def __init__(
        self,
        limits: Limits,
        *,
        transport: Transport | None = None,
        environment: Mapping[str, str] | None = None,
        uid: int | None = None,
        young: float = 60.0,
    ) -> None:
        seen = os.environ if environment is None else environment
        self._environment = {name: seen[name] for name in KEPT if name in seen} | {"LANG": "C", "LC_ALL": "C"}
        self._limits, self._transport = limits, transport or Here()
        self._uid, self._young = os.getuid() if uid is None else uid, young

    # --- submit -----------------------------------------------------------------------------------------

    def submit(self, script: Path, identity: JobIdentity) -> Accepted | Rejected | Unknown:
        """In this process: whoever kills it leaves sbatch to itself, and the job is found by its nonce."""
        from clipctl.backends.executor import submit  # submitit is slow to import

        try:
            told = parse_directives(script.read_text(encoding="utf-8"))
        except OSError as error:
            return Rejected(reason=f"{error.filename}: {error.strerror}")
        answer = submit(script, self._environment, self._limits.submit_timeout)
        if not isinstance(answer, Accepted):
            return answer
        shown = self._run(["scontrol", "show", "job", "--oneliner", answer.scheduler_id])
        return replace(answer, differences=differences(told, shown.out)) if shown.code == 0 else answer

    # --- look -------------------------------------------------------------------------------------------

    def poll(self, jobs: Sequence[JobIdentity]) -> QueueSnapshot | Unobservable:
        """Those of `jobs` that Slurm knows of, and whatever else of clipctl's is alive in its queue.

        One that accounting calls alive, and squeue does not list, is absent.
        """
        now, rows = time.time(), self._queue()
        if isinstance(rows, Unobservable):
            return rows
        named = codec.by_comment(rows)
        owned = ((job, codec.own_queued(named.get(job.comment, ()), job, self._uid)) for job in jobs)
        found = {job.nonce: row.report for job, row in owned if row}
        found |= self._accounted(jobs, found)
        others = {row.report.nonce: row.report for row in codec.alive(rows, self._uid)}
        return QueueSnapshot(time=now, jobs={**others, **self._explained(found)})

    def find(self, identity: JobIdentity) -> JobReport | Unobservable | None:
        answer = self.poll([identity])
        return answer if isinstance(answer, Unobservable) else answer.jobs.get(identity.nonce)

    def _queue(self) -> list[Row] | Unobservable:
        mark = _mark()
        answer = self._run(codec.squeue(self._uid, mark))
        if answer.code != 0:
            return Unobservable(reason=answer.failure)
        rows = codec.queue_rows(answer.out, mark)
        if rows is None:
            return Unobservable(reason=f"squeue: not an answer: {(answer.err or answer.out).strip()!r:.200}")
        return rows

    def _accounted(self, jobs: Sequence[JobIdentity], queued: Mapping[str, JobReport]) -> dict[str, JobReport]:
        """How jobs ended that squeue has forgotten, and who cancelled those that it remembers."""
        asked = [job for job in jobs if job.nonce not in queued or queued[job.nonce].state is JobState.CANCELLED]
        if not asked:
            return {}
        mark = _mark()
        answer = self._run(codec.sacct(self._uid, mark, asked), at_most=ACCOUNTING_PATIENCE)
        rows = codec.accounting_rows(answer.out, mark) if answer.code == 0 else None
        if rows is None:
            return {}
        ended = {job.nonce: codec.own_ended(rows, job, self._uid) for job in asked}
        both = {nonce: _both(queued.get(nonce), row.report if row else None) for nonce, row in ended.items()}
        return {nonce: report for nonce, report in both.items() if report is not None}

    def _explained(self, found: Mapping[str, JobReport]) -> Mapping[str, JobReport]:
        """Whatever a job waits for now may hide that its partition will never have the nodes; and which node a job
        ended by is said of nodes only. All of it is one scontrol, which takes questions from its input."""
        waits = any(report.state is JobState.PENDING for report in found.values())
        ended = nodes.asked_about(found.values())
        questions = [codec.PARTITIONS] * waits + [nodes.question(ended)] * bool(ended)
        if not questions:
            return found
        answer = self._run(["scontrol", "--oneliner"], stdin="\n".join([*questions, ""]))
        text = answer.out if answer.code == 0 else ""
        sizes, known = codec.partition_sizes(text), nodes.node_reports(text)
        return {nonce: _explained(report, sizes, known) for nonce, report in found.items()}

    # --- end --------------------------------------------------------------------------------------------

    def cancel(self, job: JobHandle, *, force: bool) -> None:
        """USR1 to the script, which passes it on to the ranks, so that they save and leave; Slurm calls that FAILED.
        A job that waits, or has only just started, is scancelled.

        `force`: scancel of whatever lives. Slurm sends TERM to every process, and KILL after the site's KillWait, 30 s.
        Nothing is faster: `scancel --signal=KILL --full` does the very same, and once a job is COMPLETING its
        processes are Slurm's to kill (22.05: "Invalid job id specified").
        """
        rows = self._queue()
        if isinstance(rows, Unobservable):
            raise Unavailable(f"the job was not told to stop: {rows.reason}", "squeue --me")
        own = [row.report for row in codec.own(rows, job.identity, self._uid) if row.alive]
        hearing = [] if force else [report for report in own if self._hears(report)]
        self._scancel([report for report in own if report not in hearing])
        self._scancel(hearing, "--batch", "--signal=USR1")

    def _hears(self, report: JobReport) -> bool:
        started = report.started_at
        return report.state is JobState.RUNNING and started is not None and time.time() - started > self._young

    def _scancel(self, reports: Sequence[JobReport], *options: str) -> None:
        ids = [report.scheduler_id for report in reports]
        if not ids:
            return
        answer = self._run(["scancel", *options, *ids])
        lines = [line for line in answer.err.split("\n") if line.strip()]
        if answer.code != 0 and not (lines and all(line.endswith(GONE) for line in lines)):
            raise Unavailable(f"the job was not told to stop: {answer.failure}", f"scancel {' '.join(ids)}")

    # --- every command ----------------------------------------------------------------------------------

    def _run(self, command: Sequence[str], *, at_most: float | None = None, stdin: str = "") -> Completed:
        timeout = min(self._limits.query_timeout, at_most or self._limits.query_timeout)
        argv = [*with_only(self._environment | codec.VARIABLES), *command]
        answer = self._transport.run(argv, timeout=timeout, stdin=stdin.encode())
        if answer.code == NOT_FOUND:
            return replace(answer, problem=f"{command[0]} is not installed here, or not in PATH")
        return replace(answer, problem=f"{command[0]}: {answer.failure}" if answer.code != 0 else "")


def _mark() -> str:
    return f"~{secrets.token_hex(8)}~"


def _both(queued: JobReport | None, accounted: JobReport | None) -> JobReport | None:
    """squeue knows restarts and preemption, accounting who cancelled it: of the same job, and a little later."""
    if queued is None:
        return accounted
    if accounted is None:
        return replace(queued, settled=not _awaited(queued, time.time()))
    if queued.scheduler_id != accounted.scheduler_id:
        return queued
    return replace(queued, cancelled_by=accounted.cancelled_by)


def _explained(report: JobReport, sizes: Mapping[str, int], known: Mapping[str, NodeReport]) -> JobReport:
    failed = nodes.failed_nodes(report, known)
    return replace(report, partition_nodes=sizes.get(report.partition), failed_nodes=failed)


def _awaited(cancelled: JobReport, now: float) -> bool:
    """Whether accounting may still say by whom. It leaves out jobs that never could have started."""
    ended = cancelled.ends_at
    return cancelled.started_at is not None and ended is not None and abs(now - ended) < ACCOUNTING_LAG
