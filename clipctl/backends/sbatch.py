"""What sbatch answered: a job, a refusal, or nothing that can be relied on. Pure.

A failed sbatch may have succeeded: frozen or restarted controllers accept what the client has given up. So only a text
that slurmctld or sbatch itself is known to say *instead of* making a job counts as a refusal.
"""

from __future__ import annotations

import re

from clipctl.backends.transport import NOT_FOUND, Completed, last_line
from clipctl.domain import Accepted, Rejected, Unknown

TIMED_OUT = 124  # what coreutils' timeout leaves with
FAILED = "sbatch: error: Batch job submission failed: "
LIMIT = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"

# After FAILED, word for word as slurmctld's errors read.
REFUSALS = frozenset(
    {
        LIMIT,
        "Access denied to requested reservation",
        "Access/permission denied",
        "CPU count specification invalid",
        "Invalid account or account/partition combination specified",
        "Invalid feature specification",
        "Invalid generic resource (gres) specification",
        "Invalid license specification",
        "Invalid partition name specified",
        "Invalid qos specification",
        "Invalid Trackable RESource (TRES) specification",
        "Invalid wckey specification",
        "Job dependency problem",
        "Job size specification needs to be provided",
        "Memory required by task is not available",
        "More processors requested than permitted",
        "No partition specified or system default partition",
        "Node count specification invalid",
        "Pathname of a file, directory or other parameter too long",
        "Requested account has breached requested QOS usage threshold",
        "Requested more tasks than available processors",
        "Requested node configuration is not available",
        "Requested nodes not in this partition",
        "Requested reservation is invalid",
        "Requested time limit is invalid (missing or exceeds some limit)",
        "Task count specification invalid",
        "Time limit specification required, but not provided",
        "User's group not permitted to use this partition",
    }
)
# The same, but the very script may be taken later.
BUSY = frozenset(
    {
        "Burst Buffer resource limit exceeded",
        "Job can not start due to maintenance reservation.",
        "Requested partition configuration not available now",
        "Requested reservation not usable now",
        "Required node not available (down, drained or reserved)",
        "Required partition not available (inactive or drain)",
        "Unable to create job record, try again",  # the controller's MaxJobCount
    }
)
# Said by sbatch before it asks anybody.
OWN_REFUSALS = re.compile(
    r"sbatch: (?:(?:unrecognized|invalid) option|option .* requires an argument|"
    r"(?:error|fatal): (?:Invalid (?:--|argument|directive|numeric value|.* specification)|Unable to open file|"
    r"This does not look like a batch script|Could not establish a configuration source|.*: line [0-9]+: Unmatched))"
)
USED_UP = re.compile(r"(?:Submit|Jobs)\w*Limit|Max(?:Submit)?Jobs")  # of jobs at one time, not of one job's size


def understood(answer: Completed) -> Accepted | Rejected | Unknown:
    """Only the code and standard output accept: standard error may complain of what a second try made good."""
    if answer.code == 0:
        return _accepted(answer.out)
    reason = "no answer in time" if answer.code == TIMED_OUT else answer.failure.removeprefix("sbatch: error: ")
    return _rejected(answer) or Unknown(reason=f"sbatch: {reason}")


def job_id(out: str) -> str | None:
    """The one line that is `--parsable`'s, id or id;cluster, whatever a site prints around it. None: not just one."""
    found = {match[1] for line in out.split("\n") if (match := re.fullmatch(r"([0-9]+)(;[\w.-]+)?", line.strip()))}
    return found.pop() if len(found) == 1 else None


def _accepted(out: str) -> Accepted | Unknown:
    if (found := job_id(out)) is None:
        return Unknown(reason=f"sbatch left with 0, but its answer is no job id: {last_line(out)!r:.200}")
    return Accepted(scheduler_id=found)


def _rejected(answer: Completed) -> Rejected | None:
    lines = [line.strip() for line in answer.err.split("\n") if line.strip()]
    last = lines[-1] if lines else ""
    if answer.code == NOT_FOUND:
        return Rejected(reason=f"sbatch is not installed here, or not in PATH ({last})")
    if last.startswith(FAILED):
        return _refused(last.removeprefix(FAILED), lines[:-1])
    said = next((line for line in lines if OWN_REFUSALS.match(line)), None)
    return Rejected(reason=said.removeprefix("sbatch: ").removeprefix("error: ")) if said else None


def _refused(text: str, before: list[str]) -> Rejected | None:
    """`before`: which limit it was, or which name, stands in the lines before."""
    if text not in REFUSALS | BUSY:
        return None
    detail = [line.removeprefix("sbatch: error: ") for line in before if line.startswith("sbatch: error: ")]
    used_up = text == LIMIT and any(map(USED_UP.search, detail))
    return Rejected(reason="; ".join([text, *detail]), transient=text in BUSY or used_up)
