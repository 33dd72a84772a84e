"""What a set that was looked at means for a run: how often an epoch reads it, and whether reading keeps up."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.contract import TrainSpec
from trainer.schedule import Geometry


@dataclass(frozen=True, kw_only=True)
class Allocation:
    nodes: int
    ranks: int
    readers: int  # data-loader workers of all ranks
    samples_per_epoch: int
    samples_per_rank: int  # of an epoch
    passes_per_epoch: float  # through the whole set
    bytes_per_node: float  # of an epoch
    hours_per_epoch: float  # of reading alone, on each node at the speed of this look
    samples_per_second_and_rank: float  # that this speed can feed
    resampled: bool
    max_bad_fraction: float


def allocation(
    train: TrainSpec, *, nodes: int, ranks: int, pairs: float, bytes_per_pair: float, bytes_per_second: float
) -> Allocation:
    """`pairs`: of the whole set, more than 0. A node is taken to read as fast as the one that looked."""
    geometry = Geometry.of(train, ranks)
    bytes_per_node = geometry.samples_per_epoch / nodes * bytes_per_pair
    return Allocation(
        nodes=nodes,
        ranks=ranks,
        readers=ranks * max(1, train.data.workers),
        samples_per_epoch=geometry.samples_per_epoch,
        samples_per_rank=geometry.samples_per_epoch // ranks,
        passes_per_epoch=geometry.samples_per_epoch / pairs,
        bytes_per_node=bytes_per_node,
        hours_per_epoch=bytes_per_node / bytes_per_second / 3600,
        samples_per_second_and_rank=bytes_per_second / bytes_per_pair / (ranks / nodes),
        resampled=train.data.dataset_resampled,
        max_bad_fraction=train.data.max_bad_fraction,
    )


def objections(found: Allocation, *, shards: int, bad: int, seen: int) -> tuple[str, ...]:
    """Why the trainer would refuse the set, one line each with what to type."""
    lines = []
    if not found.resampled and shards < found.readers:
        lines.append(
            f"{shards:,} shards are too few for {found.readers:,} readers (ranks x workers); "
            "fewer workers, or --set train.data.dataset_resampled=true"
        )
    if bad > found.max_bad_fraction * seen:
        lines.append(
            f"{bad / seen:.2%} of the samples cannot be used, and the trainer gives up at "
            f"train.data.max_bad_fraction={found.max_bad_fraction}"
        )
    return tuple(lines)
