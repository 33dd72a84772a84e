"""What a person may ask of sbatch. Closed and typed: what is not here cannot be asked for.

Who the job is, when it may run and what becomes of it (job-name, comment, dependency, requeue, output, export, signal
...) is the job script's own, and how many nodes and ranks it has comes from `resources`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from clipctl.spec.model import Frozen
from clipctl.spec.patterns import (
    BEGIN,
    DISTRIBUTION,
    FEATURES,
    LICENSES,
    MAIL,
    MEMORY,
    NODES,
    SWITCHES,
    WALL_TIME,
    WORD,
    WORDS,
)
from clipctl.spec.words import Problem, refused
from trainer.contract import Count

EARLY = 60  # seconds: so much before its time Slurm may send a signal (man sbatch, --signal)
USUAL_LEAD = 600  # seconds
MailType = Literal["BEGIN", "END", "FAIL", "REQUEUE", "TIME_LIMIT", "TIME_LIMIT_90", "TIME_LIMIT_80", "ALL", "NONE"]
Word = Annotated[str, Field(pattern=WORD)]
Words = Annotated[str, Field(pattern=WORDS)]
Nodes = Annotated[str, Field(pattern=NODES)]
Memory = Annotated[str, Field(pattern=MEMORY)]


class SbatchOptions(Frozen):
    """None: not given. Each has sbatch's own name and meaning but `save_before_end` and `gpu_type`."""

    # where, and at whose expense
    partition: Words | None = None
    account: Word | None = None
    qos: Word | None = None
    reservation: Words | None = None
    wckey: Word | None = None
    licenses: Annotated[str, Field(pattern=LICENSES)] | None = None
    # when
    time: Annotated[str, Field(pattern=WALL_TIME)] | None = None  # not given: the partition's default
    save_before_end: Annotated[int, Field(ge=1, le=65535)] | None = None  # seconds; not given: see `lead`
    begin: Annotated[str, Field(pattern=BEGIN)] | None = None
    nice: Annotated[int, Field(ge=0, le=2_147_483_645)] | None = None
    # which nodes
    constraint: Annotated[str, Field(pattern=FEATURES)] | None = None
    nodelist: Nodes | None = None  # at least these
    exclude: Nodes | None = None
    contiguous: bool | None = None
    switches: Annotated[str, Field(pattern=SWITCHES)] | None = None
    exclusive: bool | None = None
    # what of a node
    gpu_type: Word | None = None  # a100: --gres=gpu:a100:<ranks_per_node>
    cpus_per_task: Count | None = None
    threads_per_core: Count | None = None
    hint: Literal["compute_bound", "memory_bound", "multithread", "nomultithread"] | None = None
    distribution: Annotated[str, Field(pattern=DISTRIBUTION)] | None = None
    mem: Memory | None = None  # a node; 0: all of it
    mem_per_gpu: Memory | None = None
    tmp: Memory | None = None  # on the node's own disk
    propagate: Literal["ALL", "NONE"] | None = None  # the login node's ulimits, which can be those of a shared machine
    # who is told
    mail_user: Annotated[str, Field(pattern=MAIL)] | None = None
    mail_type: tuple[MailType, ...] | None = None

    @property
    def lead(self) -> int | None:
        """So many seconds before the end of wall time ranks are asked to save; None: too short a job to be asked.

        By default ten minutes, but no more than a tenth of the job.
        """
        if self.save_before_end is not None or self.time is None:
            return self.save_before_end or USUAL_LEAD
        total = seconds(self.time)
        return min(USUAL_LEAD, total // 10) if total >= 2 * EARLY else None

    def given(self) -> dict[str, Any]:
        """The options that have a value, as plain JSON types."""
        return self.model_dump(mode="json", exclude_none=True)

    def directives(self) -> dict[str, str]:
        """sbatch's long options; a flag has an empty text. `lead` and `gpu_type` are the job script's to place."""
        options = {name: value for name, value in self.given().items() if value is not False and value != []}
        return {_long(name): _text(value) for name, value in options.items() if name not in _PLACED}


_PLACED = ("save_before_end", "gpu_type")
_ALTERNATIVES = (("mem", "mem_per_gpu"), ("hint", "threads_per_core"))  # sbatch takes one of the two


def seconds(wall_time: str) -> int:
    days, _, clock = wall_time.rpartition("-")
    hours, minutes, rest = map(int, clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest


def option_rules(options: SbatchOptions) -> Iterator[Problem]:
    """What options that belong together break."""
    for one, other in _ALTERNATIVES:
        first, second = getattr(options, one), getattr(options, other)
        if first is not None and second is not None:
            rule = f"cannot be given with slurm.{one}={first}; slurm.{one}=null takes that out"
            yield refused(f"slurm.{other}", second, rule, (f"slurm.{one}",))
    if options.time is not None and options.save_before_end is not None:
        most = seconds(options.time) - EARLY
        if options.save_before_end > most:
            rule = f"must be {most} or less: of slurm.time={options.time}, and Slurm may be a minute early"
            yield refused("slurm.save_before_end", options.save_before_end, rule, ("slurm.time",))


def _long(name: str) -> str:
    return name.replace("_", "-")


def _text(value: object) -> str:
    if value is True:
        return ""
    return ",".join(value) if isinstance(value, list) else str(value)
