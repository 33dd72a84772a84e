"""What Slurm made of a script, against what the script says: a site's own rules change jobs silently. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from clipctl.backends.slurm_codec import fields


def differences(directives: Mapping[str, str], shown: str) -> tuple[str, ...]:
    """A line for each. `directives`: sbatch's long options to their texts; `shown`: `scontrol show job --oneliner`."""
    return tuple(_differences(directives, fields(shown)))


def _differences(directives: Mapping[str, str], job: Mapping[str, str]) -> Iterator[str]:
    for option, (field, same) in _COMPARED.items():
        asked, got = directives.get(option), job.get(field)
        if asked is not None and got is not None and not same(asked, got):
            yield f"--{option}={asked}, but the job has {field}={got}"
    if "no-requeue" in directives and job.get("Requeue", "0") != "0":
        yield "--no-requeue, but Slurm may start the job again by itself (Requeue=1)"
    ranks = _ranks(directives)
    if ranks is not None and job.get("NumTasks", ranks) != ranks:
        yield f"{ranks} ranks, but the job has NumTasks={job['NumTasks']}"


def _ranks(directives: Mapping[str, str]) -> str | None:
    nodes, per_node = directives.get("nodes", ""), directives.get("ntasks-per-node", "")
    return str(int(nodes) * int(per_node)) if nodes.isdecimal() and per_node.isdecimal() else None


def _exactly(asked: str, got: str) -> bool:
    return asked == got


def _in_small_letters(asked: str, got: str) -> bool:
    """Accounting keeps accounts and QOS so."""
    return asked.lower() == got.lower()


def _one_of(asked: str, got: str) -> bool:
    """Of several partitions that were asked for, a job that runs has one."""
    return set(got.split(",")) <= set(asked.split(","))


def _nodes(asked: str, got: str) -> bool:
    """A job that waits shows a range: 96-96."""
    return set(got.split("-")) == {asked}


def _gres(asked: str, got: str) -> bool:
    """gres:gpu:4, since 23.02 gres/gpu:4."""
    return re.sub(r"\bgres[:/]", "", got) == asked


def _time(asked: str, got: str) -> bool:
    """24:00:00 is 1-00:00:00; Slurm counts in minutes and rounds up."""
    limits = [_minutes(text) for text in (asked, got)]
    return None in limits or limits[0] == limits[1]


def _minutes(text: str) -> int | None:
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes + (seconds > 0)


_COMPARED: Mapping[str, tuple[str, Callable[[str, str], bool]]] = {
    "job-name": ("JobName", _exactly),
    "comment": ("Comment", _exactly),
    "nodes": ("NumNodes", _nodes),
    "time": ("TimeLimit", _time),
    "gres": ("TresPerNode", _gres),
    "cpus-per-task": ("CPUs/Task", _exactly),
    "partition": ("Partition", _one_of),
    "account": ("Account", _in_small_letters),
    "qos": ("QOS", _in_small_letters),
    "reservation": ("Reservation", _one_of),
    "chdir": ("WorkDir", _exactly),
}
