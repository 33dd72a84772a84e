"""Looks at all shards of a set, or at some of them, with several processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING

from clipctl.dataset.allocation import Allocation, allocation, objections
from clipctl.dataset.survey import Survey, Trouble, survey
from clipctl.errors import InvalidSpec, Unavailable
from clipctl.spec.shards import expand, is_remote, sources
from trainer.contract import DatasetType

if TYPE_CHECKING:
    from clipctl.spec import RunSpec

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Report:
    pattern: str
    shards: int  # that the pattern names; found.shards of them were looked at
    jobs: int
    found: Survey
    bytes_per_second: float  # of all processes together, without their start
    allocation: Allocation | None  # None: no run was named, or there is not one pair
    problems: tuple[str, ...]  # one line each
    schema: int = SCHEMA


def named_by(pattern: str) -> list[str]:
    """The shards of a pattern. InvalidSpec: it is none, or not one of them is there."""
    if any(map(is_remote, sources(pattern))):
        raise InvalidSpec((f"{pattern}: must be files; pipe: and URLs are not read: copy them to a disk",))
    try:
        shards = list(expand(pattern))
    except ValueError as error:
        raise InvalidSpec((f"{pattern}: {error}",)) from error
    if not any(map(os.path.exists, shards)):
        rest = " and all others are not there" if len(shards) > 1 else " is not there"
        hint = f"ls {quote(os.path.dirname(shards[0]) or '.')}"
        raise InvalidSpec((f"{pattern}: matches no file; {shards[0]}{rest}",), hint)
    return shards


def spread(shards: Sequence[str], sample: int | None) -> Sequence[str]:
    """So many of them, evenly from the first to the last."""
    if sample is None or sample >= len(shards):
        return shards
    return [shards[(2 * index + 1) * len(shards) // (2 * sample)] for index in range(sample)]


def check(
    pattern: str,
    spec: RunSpec | None,
    *,
    sample: int | None,
    jobs: int,
    tell: Callable[[int, Survey], None],
) -> Report:
    """`tell` hears after each shard how many there are to look at, and what was found so far.

    InvalidSpec as `named_by`; Unavailable: a process that read was killed.
    """
    if spec is not None and (kind := spec.train.data.dataset_type) is not DatasetType.WEBDATASET:
        raise InvalidSpec((f"train.data.dataset_type={kind}: only webdataset shards can be checked",))
    shards = named_by(pattern)
    chosen = spread(shards, sample)
    jobs = min(jobs, len(chosen))
    found, busy = Survey(), 0.0
    for one, seconds in _surveys(chosen, jobs):
        found.add(one)
        busy += seconds
        tell(len(chosen), found)
    return _report(pattern, len(shards), spec, found, jobs, busy)


def _report(pattern: str, shards: int, spec: RunSpec | None, found: Survey, jobs: int, busy: float) -> Report:
    """`busy`: seconds that all processes read, added up."""
    speed = found.bytes * jobs / busy
    for_run, against = None, tuple[str, ...]()
    if spec is not None and found.pairs:
        for_run = allocation(
            spec.train,
            nodes=spec.resources.nodes,
            ranks=spec.ranks,
            pairs=found.pairs * shards / found.shards,
            bytes_per_pair=found.bytes / found.pairs,
            bytes_per_second=speed,
        )
        against = objections(for_run, shards=shards, bad=found.bad, seen=found.seen)
    met = [(trouble, found.troubles[trouble]) for trouble in Trouble if trouble in found.troubles]
    troubles = tuple(f"{trouble}: {each.count:,}; the first is {each.first}" for trouble, each in met)
    if not found.pairs:
        against = ("there is not one image-text pair that can be used",)
    return Report(
        pattern=pattern,
        shards=shards,
        jobs=jobs,
        found=found,
        bytes_per_second=speed,
        allocation=for_run,
        problems=troubles + against,
    )


# --- processes --------------------------------------------------------------------------------------


def _timed(shard: str) -> tuple[Survey, float]:
    begun = time.perf_counter()
    return survey(shard), time.perf_counter() - begun


def _surveys(shards: Sequence[str], jobs: int) -> Iterator[tuple[Survey, float]]:
    """In the order in which they are ready; a set of a million shards is not queued all at once."""
    if jobs == 1:
        yield from map(_timed, shards)
        return
    left = iter(shards)
    try:
        with _readers(jobs) as readers:
            waiting = {_submit(readers, shard) for shard in itertools.islice(left, 2 * jobs)}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                waiting |= {_submit(readers, shard) for shard in itertools.islice(left, len(done))}
                yield from (each.result() for each in done)
    except OSError as error:  # too many processes or files, a working folder that is gone
        raise Unavailable(f"no process can be started to read: {error.strerror}", "add --jobs 1") from error
    except BrokenProcessPool as error:
        raise Unavailable("a process that read was killed; is memory short?", "add --jobs 1") from error


@contextmanager
def _readers(jobs: int) -> Iterator[Executor]:
    """Spawned, not forked: a progress bar has a thread. Whatever ends this process, they do not outlive it."""
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_watch_parent)
    try:
        yield executor
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()  # a large shard on a slow disk can take minutes
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _submit(readers: Executor, shard: str) -> Future[tuple[Survey, float]]:
    """It may start a process, and that one inherits what is blocked: a terminal's Ctrl-C is for this process alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return readers.submit(_timed, shard)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch_parent() -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
