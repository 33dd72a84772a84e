"""data check: what lies in shards, and what it means for a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.cli.app import AsJson, Sets, complete_preset
from clipctl.cli.specs import data
from clipctl.cli.words import complain, count, duration, pairs, plural, say, say_json, size
from clipctl.errors import ExitStatus

if TYPE_CHECKING:
    from collections import Counter

    from clipctl.dataset.allocation import Allocation
    from clipctl.dataset.survey import Survey
    from clipctl.ops.shards import Report
    from clipctl.spec import RunSpec

MOST_JOBS = 8  # by default: a login node is not ours alone


@data.command("check")
def check(
    what: Annotated[
        str,
        typer.Argument(
            metavar="SHARDS|PRESET|FILE",
            autocompletion=complete_preset,
            help="A pattern such as '/data/{00000..00099}.tar', or what could be launched: then for that run.",
        ),
    ],
    sets: Sets = None,
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="Look at so many shards, evenly spread; else at all.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Processes that read; else the cores here, at most 8.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read shards as the trainer would, and say what is wrong with them. Decodes and extracts nothing."""
    from clipctl.ops import shards as operation

    spec = _spec_of(what, sets)
    pattern = spec.train.data.train_data if spec else what
    with _progress() as tell:
        report = operation.check(pattern, spec, sample=sample, jobs=jobs or _cores_here(), tell=tell)
    if as_json:
        say_json(report)
    else:
        _print(report)
    if report.problems:
        complain("\n".join(report.problems), _next(report))
        raise typer.Exit(ExitStatus.INVALID)


def _spec_of(what: str, sets: list[str] | None) -> RunSpec | None:
    """None: `what` are shards."""
    if ".tar" in what:
        if sets:
            raise typer.BadParameter("--set changes a preset's or a file's values, and shards have none")
        return None
    from clipctl.ops.launch import cluster_here
    from clipctl.spec import resolve

    return resolve(what, sets=sets or (), fallback=cluster_here)


def _cores_here() -> int:
    return min(len(os.sched_getaffinity(0)), MOST_JOBS)


def _next(report: Report) -> str:
    from shlex import quote

    worst = report.found.bad_by_shard.most_common(1)
    return f"tar -tvf {quote(worst[0][0])}" if worst else f"clipctl data check {quote(report.pattern)} --json"


@contextmanager
def _progress() -> Iterator[Callable[[int, Survey], None]]:
    """A bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda total, found: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    facts = TextColumn("{task.fields[facts]}", markup=False)
    columns = (TextColumn("shards"), BarColumn(bar_width=20), MofNCompleteColumn(), facts, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, facts="")

        def tell(total: int, found: Survey) -> None:
            facts = f"{plural(found.pairs, 'pair')}, {found.bad:,} bad"
            bar.update(task, total=total, completed=found.shards, facts=facts)

        yield tell


# --- the report -------------------------------------------------------------------------------------


def _print(report: Report) -> None:
    found = report.found
    looked_at = "" if found.shards == report.shards else f"{found.shards:,} of "
    say(
        f"{looked_at}{plural(report.shards, 'shard')}, {size(found.bytes)}, "
        f"read at {size(int(report.bytes_per_second))}/s with --jobs {report.jobs}",
        *pairs(_facts(found)),
    )
    if report.allocation:
        run = report.allocation
        say(f"for {plural(run.ranks, 'rank')} on {plural(run.nodes, 'node')}", *pairs(_for_run(run)))


def _facts(found: Survey) -> list[tuple[str, str]]:
    return [
        ("samples", f"{found.samples:,}, of which {found.pairs:,} are image-text pairs that can be used"),
        ("bad", f"{found.bad:,} that the trainer would skip and count" if found.bad else "none"),
        ("images", ", ".join(f"{number:,} {name}" for name, number in found.formats.most_common())),
        ("width", _spread(found.widths)),
        ("height", _spread(found.heights)),
        ("captions", f"{found.empty_captions:,} are empty"),
        ("safety", _safety(found)),
        ("img2dataset", f"{found.with_stats:,} of {found.shards:,} shards have its _stats.json beside them"),
    ]


def _spread(sizes: Counter[int]) -> str:
    """Nothing, without an image."""
    if not sizes:
        return ""
    return f"{min(sizes):,} / {median(sizes):,} / {max(sizes):,} pixels (min / median / max)"


def median(sizes: Counter[int]) -> int:
    """The lower one of two."""
    left = (sizes.total() + 1) // 2
    for value in sorted(sizes):
        left -= sizes[value]
        if left <= 0:
            break
    return value


def _safety(found: Survey) -> str:
    tags, lacking = found.tags, found.samples - found.tags.json
    if not tags.json:
        return "no sample has a .json member that can be read"
    words = [f"{count(lacking)} samples without .json"] if lacking else []
    words.append(
        f"punsafe in {tags.punsafe / found.samples:.1%} of the samples"
        + (f", 0.5 or more in {tags.unsafe(5) / tags.punsafe:.1%} of those" if tags.punsafe else "")
    )
    values = ", ".join(f"{name} {number:,}" for name, number in tags.nsfw_values.most_common())
    words.append(f"NSFW in {tags.nsfw / found.samples:.1%}" + (f" ({values})" if values else ""))
    return "; ".join(words)


def _for_run(run: Allocation) -> list[tuple[str, str]]:
    per_node = f"{size(int(run.bytes_per_node))} a node: {duration(run.hours_per_epoch * 3600)} at this speed"
    drawn = "shards are drawn with replacement" if run.resampled else "each reader has its own shards"
    return [
        ("an epoch", f"{run.samples_per_epoch:,} samples, {run.samples_per_rank:,} a rank; {drawn}"),
        ("passes", f"{run.passes_per_epoch:,.2f} an epoch through the whole set"),
        ("reading", per_node),
        ("keeps up", f"with {run.samples_per_second_and_rank:,.0f} samples/s a rank, decoding not counted"),
        ("readers", f"{run.readers:,} (ranks x workers)"),
    ]
