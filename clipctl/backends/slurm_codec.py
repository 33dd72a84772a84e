"""What Slurm's commands are asked, and what their texts mean. Pure, and for Slurm 20.11 and newer.

Fixed fields, not --json: 22.05's `squeue --json` ignores --user, --name and --states and prints every job of the
cluster with every core of every node (5 kB for a 2-node job), and its shape changed with each release since.

Each call makes up a mark that separates fields. A job's name or comment may hold any character, newlines too; it cannot
hold the mark, so it can neither forge a row nor shift a field. The header is asked for: an answer without one is none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath

from clipctl.domain import ENDED_STATES, JobIdentity, JobReport, JobState

_OURS = r"clipctl:[^:]+:[0-9]+:[0-9a-f]+"  # run, attempt, nonce
EARLY = 60.0  # seconds that the controller's clock may be behind ours
# Seconds since 1970, whatever the site's zone and habits.
VARIABLES = {"SLURM_TIME_FORMAT": "%s", "TZ": "UTC"}

# squeue cuts each field at its width. Ours are shorter; a foreign one that is cut is not ours either.
QUEUE_FIELDS = {
    "jobid": 32,
    "userid": 16,
    "state": 32,
    "reason": 160,
    "submittime": 24,
    "starttime": 24,
    "endtime": 24,
    "preempttime": 24,
    "restartcnt": 8,
    "exit_code": 16,
    "derivedec": 16,
    "numnodes": 16,
    "partition": 128,
    "nodelist": 1024,
    "name": 64,
    "comment": 256,
}
ACCOUNTING_FIELDS = {  # sacct's names, all of them older than 20.11, and squeue's for the same
    "JobIDRaw": "jobid",
    "UID": "userid",
    "State": "state",
    "Submit": "submittime",
    "Start": "starttime",
    "End": "endtime",
    "ExitCode": "exit_code",
    "DerivedExitCode": "derivedec",
    "NNodes": "numnodes",
    "Partition": "partition",
    "NodeList": "nodelist",
    "WorkDir": "workdir",
    "JobName": "name",
    "Comment": "comment",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One job, or one of its starts where accounting keeps several under one id."""

    uid: int
    name: str
    comment: str
    submitted: float  # rewritten when the job is requeued
    folder: str = ""
    report: JobReport  # its nonce is what the comment says

    @property
    def alive(self) -> bool:
        return self.report.state not in ENDED_STATES


# --- questions --------------------------------------------------------------------------------------


def squeue(uid: int, mark: str) -> list[str]:
    """All of a user's jobs that the controller remembers. Never by id: one purged id fails the whole question."""
    fields = ",".join(f"{field}:{width}{mark}" for field, width in QUEUE_FIELDS.items())
    return ["squeue", f"--user={uid}", "--states=all", f"--Format={fields}"]


def sacct(uid: int, mark: str, jobs: Sequence[JobIdentity]) -> list[str]:
    """-D: all starts of an id, or a requeue hides how the one before it ended."""
    since = datetime.fromtimestamp(min(job.submitted_at for job in jobs) - EARLY, UTC)
    names = ",".join(sorted({job.job_name for job in jobs}))
    fields = ",".join(ACCOUNTING_FIELDS)
    when = f"--starttime={since:%Y-%m-%dT%H:%M:%S}"
    form = ["--parsable2", f"--delimiter={mark}", f"--format={fields}"]
    return ["sacct", "--allocations", "--duplicates", f"--user={uid}", f"--name={names}", when, *form]


PARTITIONS = "show partition"  # for `scontrol --oneliner`


# --- answers ----------------------------------------------------------------------------------------


def queue_rows(text: str, mark: str) -> list[Row] | None:
    """None: this is no whole answer of squeue. Lines that are no row of it are left out."""
    lines = [line.split(mark) for line in text.split("\n")]
    closed = [line[:-1] for line in lines if not line[-1].strip()]  # it ends its rows with the mark, too
    return _rows(closed, list(QUEUE_FIELDS), "JOBID") if text.endswith("\n") else None


def accounting_rows(text: str, mark: str) -> list[Row] | None:
    lines = [line.split(mark) for line in text.split("\n")]
    return _rows(lines, list(ACCOUNTING_FIELDS.values()), "JobIDRaw") if text.endswith("\n") else None


def partition_sizes(text: str) -> dict[str, int]:
    """Nodes that one job may have in each partition."""
    found = re.findall(r"^(?:scontrol: )?PartitionName=(\S+) (.*)$", text, re.MULTILINE)
    sizes = {name: [_number(fields(rest).get(key, "")) for key in ("TotalNodes", "MaxNodes")] for name, rest in found}
    return {name: min(known) for name, size in sizes.items() if (known := [part for part in size if part is not None])}


def fields(line: str) -> dict[str, str]:
    """Of `scontrol --oneliner`: Key=value, where a value may hold spaces. The first of a key counts."""
    parts = re.split(r"(?:^|\s)([A-Za-z][\w:/.]*)=", line)
    pairs = list(zip(parts[1::2], parts[2::2], strict=True))
    return {key: value.strip() for key, value in reversed(pairs)}


def _rows(lines: Iterable[list[str]], names: list[str], title: str) -> list[Row] | None:
    whole = [[cell.strip() for cell in line] for line in lines if len(line) == len(names)]
    if not whole or whole[0][0] != title:
        return None
    rows = (_row(dict(zip(names, cells, strict=True))) for cells in whole[1:])
    return [row for row in rows if row is not None]


def _row(cells: dict[str, str]) -> Row | None:
    """None: not of a plain job, as ours are (`12_[3-5%1]` and `12+0` are arrays and parts), or not to be understood."""
    uid, submitted = _number(cells["userid"]), _time(cells["submittime"])
    if not re.fullmatch(r"[0-9]+", cells["jobid"]) or uid is None or submitted is None:
        return None
    return Row(
        uid=uid,
        name=cells["name"],
        comment=cells["comment"],
        submitted=submitted,
        folder=cells.get("workdir", ""),
        report=_report(cells),
    )


def _report(cells: dict[str, str]) -> JobReport:
    state, start = _state(cells["state"]), _time(cells["starttime"])
    nodes = "" if cells["nodelist"] == "None assigned" else cells["nodelist"]
    by = re.fullmatch(r"CANCELLED by ([0-9]{1,10})", cells["state"])
    return JobReport(
        nonce=cells["comment"].rpartition(":")[2],
        scheduler_id=cells["jobid"],
        state=state,
        raw=cells["state"],
        started_at=start if nodes else None,
        ends_at=_time(cells["endtime"]),
        expected_start=start if state is JobState.PENDING else None,
        reason="" if (reason := cells.get("reason", "")) == "None" else reason,
        nodes=nodes,
        node_count=_number(cells["numnodes"]),
        partition=cells["partition"],
        restarts=_number(cells.get("restartcnt", "")) or 0,
        exit_code=_code(cells["exit_code"]),
        derived_exit_code=_code(cells["derivedec"]),
        preempted_at=_time(cells.get("preempttime", "")),
        cancelled_by=int(by[1]) if by else None,
    )


def shown(text: str, nonce: str) -> JobReport | None:
    """A job as `scontrol show job --oneliner` has it; None: that is no such text. Its times are the site's own."""
    found = fields(text)
    if "JobId" not in found or "JobState" not in found:
        return None
    preempted = found.get("PreemptTime", "None")
    return JobReport(
        nonce=nonce,
        scheduler_id=found["JobId"],
        state=_state(found["JobState"]),
        raw=found["JobState"],
        nodes="" if found.get("NodeList", "(null)") == "(null)" else found["NodeList"],
        preempted_at=_local_time(preempted),
    )


# --- whose job it is --------------------------------------------------------------------------------


def own_queued(rows: Sequence[Row], job: JobIdentity, uid: int) -> Row | None:
    """The job in the queue; a live one where somebody submitted the same script again by hand."""
    found = own(rows, job, uid)
    return max(found, key=lambda row: (row.alive, row.report.started_at is not None, row.submitted), default=None)


def by_comment(rows: Sequence[Row]) -> Mapping[str, Sequence[Row]]:
    """For who asks about many jobs."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.comment].append(row)
    return found


def alive(rows: Sequence[Row], uid: int) -> list[Row]:
    """Whatever clipctl has submitted for this user and may run, of this store or of another one."""
    return [row for row in rows if row.alive and row.uid == uid and re.fullmatch(_OURS, row.comment)]


def own(rows: Sequence[Row], job: JobIdentity, uid: int) -> list[Row]:
    """By own uid, name, our comment and a time. Ids are given again, so they are not asked about."""
    return [row for row in rows if _named(row, job, uid) and row.comment == job.comment]


def own_ended(rows: Sequence[Row], job: JobIdentity, uid: int) -> Row | None:
    """How accounting says that the job ended; None: it does not say. Of an id's starts the newest counts.

    Nothing but an end is believed: a job that the controller has lost stays RUNNING or PENDING in accounting.
    """
    ids = {row.report.scheduler_id for row in own(rows, job, uid)} or _without_comment(rows, job, uid)
    starts = [row for row in rows if row.report.scheduler_id in ids and _named(row, job, uid)]
    newest = {row.report.scheduler_id: row for row in sorted(starts, key=lambda row: row.submitted)}
    if any(row.alive for row in newest.values()):
        return None
    last = max(newest.values(), key=lambda row: row.submitted, default=None)
    return replace(last, report=replace(last.report, nonce=job.nonce)) if last else None


def _named(row: Row, job: JobIdentity, uid: int) -> bool:
    return row.uid == uid and row.name == job.job_name and row.submitted >= job.submitted_at - EARLY


def _without_comment(rows: Sequence[Row], job: JobIdentity, uid: int) -> set[str]:
    """Many sites' accounting keeps no comments. The name is the run's, so only the time tells its jobs apart: where
    that leaves a choice, nothing is believed."""
    ids = {
        row.report.scheduler_id
        for row in rows
        if _named(row, job, uid)
        and not row.comment
        and row.submitted <= job.submitted_at + EARLY
        and PurePosixPath(row.folder).name == job.run
    }
    return ids if len(ids) == 1 else set()


# --- words ------------------------------------------------------------------------------------------


def _state(text: str) -> JobState:
    word = text.partition(" ")[0]
    return JobState(word) if word in JobState.__members__ else JobState.UNKNOWN


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else None


def _time(text: str) -> float | None:
    """None: N/A, Unknown, NONE."""
    number = _number(text)
    return float(number) if number else None


def _local_time(text: str) -> float | None:
    """None: None, N/A, Unknown."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _code(text: str) -> str:
    """code:signal; squeue's own is what wait(2) returns."""
    status = _number(text)
    return text if status is None else f"{status >> 8}:{status & 0x7F}"
