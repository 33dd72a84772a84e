"""Training data: batch i of epoch e on rank r is a pure function of (seed, e, r, i) and of the stream's geometry.

Batch i comes from worker i % W, as its batch (i - origin) // W; a worker's stream follows from `order.Reader` alone.
A batch is B consecutive pairs of that stream, known without decoding anything, so any position is reached by reading
up to it. Worker processes are forked once and run on from epoch to epoch: at an epoch's border nothing waits.
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trainer import garbage
from trainer.compose import Batch, Preprocess, Tokenizer, compose
from trainer.contract import Stream, TrainSpec
from trainer.order import Reader
from trainer.schedule import Geometry
from trainer.sets import PairSet, pair_set
from trainer.shards import DataError, Tally

# slurmstepd signals every process of a step, and it is the rank that has to answer
IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Source:
    """What a rank reads, and how; the same in all its workers."""

    pairs: PairSet
    spec: TrainSpec
    rank: int
    stream: Stream
    preprocess: Preprocess
    tokenizer: Tokenizer

    @property
    def workers(self) -> int:
        return max(1, self.stream.workers)  # without worker processes the rank is its own only worker

    @property
    def steps_per_epoch(self) -> int:
        stream = self.stream
        samples = self.spec.data.train_num_samples
        return Geometry(samples, stream.batch_size, stream.ranks, stream.workers).steps_per_epoch

    def batches(self, epoch: int, origin: int, first_step: int, worker: int) -> Iterator[Batch]:
        """Those of one worker from `first_step` to the end of the epoch: steps worker, worker + W, worker + 2W, ..."""
        reader = Reader(self.spec.seed, epoch, origin, self.rank, self.stream.ranks, worker, self.workers)
        tally = Tally()
        stream = self.pairs.stream(reader, tally)
        done = 0
        for step in range(worker, self.steps_per_epoch, self.workers):
            if step < origin:
                continue
            window = list(itertools.islice(stream, self.stream.batch_size))
            if step < first_step:
                tally.take()  # whoever trained on it has reported it
            else:
                yield compose(window, reader.seed_for("augment", done), self.preprocess, self.tokenizer, tally)
            done += 1


class _Worker(IterableDataset):  # type: ignore[type-arg]
    """All batches of a worker process, to the end of the run. DataError travels as a value: it stays one line."""

    def __init__(self, source: Source, epoch: int, origin: int, first_step: int) -> None:
        self.source, self.epoch, self.origin, self.first_step = source, epoch, origin, first_step

    def __iter__(self) -> Iterator[Batch | DataError]:
        info = get_worker_info()
        if info:
            garbage.resume()
        # The DataLoader asks process 0 first, so that one plays the worker whose turn it is.
        worker = (self.first_step + (info.id if info else 0)) % self.source.workers
        try:
            yield from self.source.batches(self.epoch, self.origin, self.first_step, worker)
            for epoch in range(self.epoch + 1, self.source.spec.epochs + 1):
                yield from self.source.batches(epoch, 0, 0, worker)
        except DataError as error:
            yield error


class Loader:
    """A rank's batches. `close` it: its processes ignore the signals that would end them.

    `stream.origin` belongs to the epoch that is asked for first; every later one starts at its border.
    Raises DataError if the shards cannot be used at all; single bad samples are only counted in `Batch.bad`:
    whether there are too many is for all ranks to agree on.
    """

    def __init__(
        self,
        spec: TrainSpec,
        rank: int,
        stream: Stream,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        *,
        pin_memory: bool = False,
    ) -> None:
        self.source = Source(pair_set(spec.data), spec, rank, stream, preprocess, tokenizer)
        self.pin_memory = pin_memory
        self._check_parts()
        self._origin_epoch: int | None = None
        self._next: tuple[int, int] | None = None  # (epoch, step) of what the running workers give next
        self._arriving: Iterator[Batch | DataError] = iter(())
        self._processes: list[BaseProcess] = []
        # multiprocessing's own exit handler would wait for ever for processes that ignore SIGTERM
        atexit.register(self.close)

    def _check_parts(self) -> None:
        source, ranks = self.source, self.source.stream.ranks
        if too_few := source.pairs.lacks(ranks * source.workers):
            raise DataError(
                f"{source.spec.data.train_data}: {too_few} for {ranks} ranks with {source.workers} workers each; "
                "use fewer workers or dataset_resampled: true"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.source.steps_per_epoch

    def begin(self, epoch: int, first_step: int) -> None:
        """Its processes read from now on what `batches` of this place will give."""
        self._start(epoch, first_step)
        self._next = (epoch, first_step)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Steps first_step (from 0) to the last one of the epoch (from 1)."""
        if self._next != (epoch, first_step):
            self._start(epoch, first_step)
        for step in range(first_step, self.steps_per_epoch):
            batch = next(self._arriving)
            if isinstance(batch, DataError):
                raise batch
            self._next = (epoch, step + 1) if step + 1 < self.steps_per_epoch else (epoch + 1, 0)
            yield batch

    def _start(self, epoch: int, first_step: int) -> None:
        self._stop()
        self._origin_epoch = self._origin_epoch or epoch
        origin = self.source.stream.origin if epoch == self._origin_epoch else 0
        workers = self.source.stream.workers
        loader = DataLoader(
            _Worker(self.source, epoch, origin, first_step),
            batch_size=None,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,  # transforms and tokenizers need not be picklable
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # else every start takes a number from the model's
        )
        others = set(multiprocessing.active_children())
        with _blocked(IGNORED_SIGNALS):  # which a process inherits: from its first moment on it hears none of them
            self._arriving = iter(loader)
        self._processes = [process for process in multiprocessing.active_children() if process not in others]

    def close(self) -> None:
        atexit.unregister(self.close)
        self._stop()

    def _stop(self) -> None:
        """Asks the workers to leave (torch waits five seconds for each), then sees that they are gone."""
        shutdown = getattr(self._arriving, "_shutdown_workers", None)
        if shutdown:
            shutdown()
        for process in self._processes:
            process.kill()
            process.join()
        self._arriving, self._processes, self._next = iter(()), [], None


@contextmanager
def _blocked(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
