"""What a Slurm says of itself: two questions to the controller, and pure text after that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from clipctl.backends.transport import NOT_FOUND, Transport

BINARIES = ("sbatch", "squeue", "scontrol", "scancel", "srun")
TIMEOUT = 10.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Partition:
    name: str
    nodes: int
    max_nodes: int | None  # of a job; None: no limit but its size
    max_seconds: int | None  # wall time; None: no limit
    up: bool
    default: bool


@dataclass(frozen=True, kw_only=True)
class Site:
    cluster_name: str
    version: str
    accounting: bool  # whether ended jobs are remembered for longer than `memory` seconds
    memory: int  # MinJobAge
    partitions: Mapping[str, Partition]


@dataclass(frozen=True)
class Absent:
    """No Slurm to be asked, and why."""

    reason: str


def ask(transport: Transport) -> Site | Absent:
    answers = []
    for command in (["scontrol", "show", "config"], ["scontrol", "show", "partition", "-o"]):
        answer = transport.run(command, timeout=TIMEOUT)
        if answer.code is None or answer.code == NOT_FOUND:
            return Absent(f"no Slurm is here ({answer.failure})")
        if answer.code != 0:
            return Absent(f"Slurm does not answer ({answer.failure})")
        answers.append(answer.out)
    return parse(*answers)


def there(transport: Transport, program: str) -> bool:
    return transport.run([program, "--version"], timeout=TIMEOUT).code not in (None, NOT_FOUND)


def parse(config: str, partitions: str) -> Site:
    """The texts of `scontrol show config` and `scontrol show partition -o`."""
    settings = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", config, re.MULTILINE))
    found = [_partition(dict(re.findall(r"(\w+)=(\S*)", line))) for line in partitions.splitlines() if line.strip()]
    return Site(
        cluster_name=settings.get("ClusterName", ""),
        version=settings.get("SLURM_VERSION", ""),
        accounting="slurmdbd" in settings.get("AccountingStorageType", ""),
        memory=_leading_number(settings.get("MinJobAge", "")) or 0,
        partitions={partition.name: partition for partition in found},
    )


def seconds(text: str) -> int | None:
    """Slurm's times: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        return None  # UNLIMITED, NONE
    days, *rest = match.groups()
    numbers = [int(number) for number in rest if number is not None]
    units = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1)
    return int(days or 0) * 86_400 + sum(number * unit for number, unit in zip(numbers, units, strict=False))


def _partition(fields: Mapping[str, str]) -> Partition:
    return Partition(
        name=fields.get("PartitionName", ""),
        nodes=_leading_number(fields.get("TotalNodes", "")) or 0,
        max_nodes=_leading_number(fields.get("MaxNodes", "")),
        max_seconds=seconds(fields.get("MaxTime", "")),
        up=fields.get("State", "") == "UP",
        default=fields.get("Default", "") == "YES",
    )


def _leading_number(text: str) -> int | None:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None
