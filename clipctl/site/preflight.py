"""What a launch on a Slurm cluster would lack, all of it at once, each with the option to type."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clipctl.site.disks import checkpoint_bytes, disk_of, files_kept
from clipctl.site.slurm import Absent, Partition, Site
from clipctl.spec import Cluster, RunSpec
from clipctl.spec.slurm import SbatchOptions, seconds

GB = 1e9


def problems(spec: RunSpec, cluster: Cluster, site: Site | Absent) -> Iterator[str]:
    """One line each."""
    yield from _slurm(cluster, site)
    yield from _account(spec, cluster)
    if isinstance(site, Site):
        yield from _partition(spec, site)
    yield from _root(spec, cluster)


def lasting(spec: RunSpec, cluster: Cluster) -> Iterator[str]:
    """What a run of this cluster's keeps from its first day on, wherever clipctl is typed."""
    if cluster.scheduler == "slurm":
        yield from _account(spec, cluster)
        yield from _root(spec, cluster)


def _account(spec: RunSpec, cluster: Cluster) -> Iterator[str]:
    if cluster.account_required and spec.slurm.account is None:
        yield f"slurm.account: is missing: {cluster.name} bills a project; --set slurm.account=NAME"


def _slurm(cluster: Cluster, site: Site | Absent) -> Iterator[str]:
    if isinstance(site, Absent):
        yield f"{site.reason}: launch on a login node of {cluster.name}; clipctl render works anywhere"
    elif cluster.cluster_name is not None and site.cluster_name != cluster.cluster_name:
        yield f"cluster={cluster.name}: is not here, this is {site.cluster_name}; --cluster NAME (clipctl presets)"


def _partition(spec: RunSpec, site: Site) -> Iterator[str]:
    chosen = partitions(site, spec.slurm)
    if not chosen:
        there = ", ".join(sorted(site.partitions))
        yield f"slurm.partition={spec.slurm.partition}: is not here; --set slurm.partition=... is one of {there}"
        return
    found = [list(_limits(spec, partition)) for partition in chosen]
    if all(found):  # Slurm starts it in whichever can take it
        yield from found[0]


def partitions(site: Site, options: SbatchOptions) -> list[Partition]:
    """Those that a job with these options may go to; empty: there is none of that name."""
    if options.partition is None:
        return [each for each in site.partitions.values() if each.default]
    return [site.partitions[name] for name in options.partition.split(",") if name in site.partitions]


def _limits(spec: RunSpec, partition: Partition) -> Iterator[str]:
    most = min(partition.nodes, partition.max_nodes or partition.nodes)
    if spec.resources.nodes > most:
        yield f"resources.nodes={spec.resources.nodes}: partition {partition.name} gives at most {most} to a job"
    wanted = seconds(spec.slurm.time) if spec.slurm.time else None
    if wanted and partition.max_seconds and wanted > partition.max_seconds:
        yield f"slurm.time={spec.slurm.time}: partition {partition.name} allows at most {clock(partition.max_seconds)}"
    if not partition.up:
        yield f"slurm.partition={partition.name}: is not up; scontrol show partition {partition.name}"


def _root(spec: RunSpec, cluster: Cluster) -> Iterator[str]:
    if spec.root is None:
        yield f"root: is missing: a folder that all nodes of {cluster.name} see; --set root=/p/scratch/..."
        return
    disk = disk_of(spec.root)
    if disk is None or not disk.writable:
        yield f"root={spec.root}: cannot be written to; --set root=/p/scratch/..."
        return
    yield from _space(spec, spec.root, disk.free)


def _space(spec: RunSpec, root: Path, free: int) -> Iterator[str]:
    size = checkpoint_bytes(spec.train)
    if size is None:
        return
    files = files_kept(spec.train.save, spec.train.epochs)
    if free < files * size:
        needed = f"{files} checkpoints of {size / GB:.1f} GB need {files * size / GB:,.0f} GB"
        yield f"root={root}: has {free / GB:,.0f} GB left, {needed}; --set root=... or train.save.keep_last=N"


def clock(total: int) -> str:
    days, rest = divmod(total, 86_400)
    return (f"{days}-" if days else "") + f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
