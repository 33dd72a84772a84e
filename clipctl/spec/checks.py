"""Rules that tie several values together. `rules` looks at values only, `missing_data` at the disk as well."""

from __future__ import annotations

import math
import os
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from clipctl.spec.cluster import Cluster
from clipctl.spec.open_clip import open_clip_rules
from clipctl.spec.run import RunSpec
from clipctl.spec.shards import expand, is_remote, scheme_of, sources
from clipctl.spec.slurm import option_rules
from clipctl.spec.words import Problem, refused, shown
from trainer.contract import BETWEEN_SOURCES, DatasetType, Engine, Parallel, Schedule, Scheme
from trainer.schedule import Geometry

TRAIN_DATA = "train.data.train_data"
FACTORS = "train.data.train_data_upsampling_factors"
SCHEMES = "train.data.allowed_schemes"
ZEROSHOT_DATA = "train.zeroshot.data"
# What the number of steps of an epoch rests on.
_LENGTH = ("train.data", "train.batch_size", "train.accum_freq", "resources")


def rules(spec: RunSpec, cluster: Cluster | None) -> Iterator[Problem]:
    """What the values alone break; `cluster` where its profile is at hand."""
    yield from _retention(spec)
    yield from _warmup(spec)
    yield from _cooldown(spec)
    yield from _sharded(spec)
    yield from _faults(spec)
    yield from _shards_alone(spec)
    yield from _sources(spec)
    yield from open_clip_rules(spec)
    yield from option_rules(spec.slurm)
    for path, text in _paths(spec):
        yield from _remote(spec, path, text) if is_remote(text) else _own_file(path, text)
    if cluster is not None:
        yield from _room(spec, cluster)
        yield from _slurm(spec) if cluster.scheduler == "slurm" else _no_slurm(spec, cluster)


def missing_data(spec: RunSpec) -> tuple[str, ...]:
    """What a launch would not find on this machine's disks, one line each; for a look right before the launch."""
    if spec.train.engine is Engine.REHEARSAL:  # makes its own pairs
        return ()
    problems = list(_LOOKS[spec.train.data.dataset_type](spec))
    zeroshot = spec.train.zeroshot
    if zeroshot is not None and next(_absent(zeroshot.data), None) is not None:
        problems.append(refused(ZEROSHOT_DATA, zeroshot.data, "is not there; train.zeroshot=null trains without"))
    return tuple(problem.line("") for problem in problems)


def _shards(spec: RunSpec) -> Iterator[Problem]:
    data = spec.train.data
    wanted = sum(1 for _ in expand(data.train_data))
    absent = list(_absent(data.train_data))
    if len(absent) == wanted:
        yield refused(TRAIN_DATA, data.train_data, f"matches no file; {absent[0]} and all others are not there")
    elif absent:
        names = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        yield refused(TRAIN_DATA, data.train_data, f"{len(absent)} of {wanted} files are not there: {names}")
    readers = spec.ranks * max(1, data.workers)
    if not data.dataset_resampled and wanted < readers:
        rule = f"has {wanted} shards for {readers} readers (ranks x workers); fewer workers, or dataset_resampled=true"
        yield refused(TRAIN_DATA, data.train_data, rule)


def _csv(spec: RunSpec) -> Iterator[Problem]:
    file = spec.train.data.train_data
    if not Path(file).is_file():
        yield refused(TRAIN_DATA, file, "is no file that is there; a csv set is one file with a header")


def _nothing(spec: RunSpec) -> Iterator[Problem]:
    return iter(())


_LOOKS = {DatasetType.WEBDATASET: _shards, DatasetType.CSV: _csv, DatasetType.SYNTHETIC: _nothing}


def _absent(pattern: str) -> Iterator[str]:
    return (path for path in expand(pattern) if not (is_remote(path) or Path(path).exists()))


def _retention(spec: RunSpec) -> Iterator[Problem]:
    keep, rollback = spec.train.save.keep_last, spec.recovery.rollback_epochs
    if keep is not None and keep < rollback + 2:
        rule = f"must be {rollback + 2} or more: a divergence goes back recovery.rollback_epochs={rollback}, plus two"
        yield refused("train.save.keep_last", keep, rule, ("recovery.rollback_epochs",))


def _warmup(spec: RunSpec) -> Iterator[Problem]:
    optim, steps = spec.train.optim, Geometry.of(spec.train, spec.ranks).steps_per_epoch * spec.train.epochs
    if optim.lr_scheduler is Schedule.COSINE and optim.warmup >= steps:
        rule = f"must be less than the run's {steps} steps; try {steps // 10}"
        yield refused("train.optim.warmup", optim.warmup, rule, (*_LENGTH, "train.epochs", "train.optim.lr_scheduler"))


def _cooldown(spec: RunSpec) -> Iterator[Problem]:
    """One of the two without the other would do nothing."""
    optim, epochs = spec.train.optim, spec.train.epochs
    wanted = optim.lr_scheduler is Schedule.CONST_COOLDOWN
    if wanted and optim.epochs_cooldown is None:
        rule = f"needs train.optim.epochs_cooldown, in epochs; try {max(1, epochs // 10)}"
        yield refused("train.optim.lr_scheduler", optim.lr_scheduler, rule, ("train.optim.epochs_cooldown",))
    if optim.epochs_cooldown is None:
        return
    if not wanted:
        rule = f"is for train.optim.lr_scheduler={Schedule.CONST_COOLDOWN} alone"
        yield refused("train.optim.epochs_cooldown", optim.epochs_cooldown, rule, ("train.optim.lr_scheduler",))
    if optim.epochs_cooldown > epochs:
        rule = f"must be at most train.epochs={epochs}"
        yield refused("train.optim.epochs_cooldown", optim.epochs_cooldown, rule, ("train.epochs",))


def _sharded(spec: RunSpec) -> Iterator[Problem]:
    train, path = spec.train, "train.parallel"
    if train.parallel is not Parallel.FSDP:
        return
    if train.engine is Engine.REHEARSAL:
        rule = "is for train.engine=torch; a rehearsal's model is a few hundred numbers"
        yield refused(path, train.parallel, rule, ("train.engine",))
    if spec.ranks == 1:
        rule = f"shares a model out among ranks, and there is one; {path}={Parallel.DDP}"
        yield refused(path, train.parallel, rule, ("resources",))
    if train.ddp_static_graph:
        rule = f"is for {path}={Parallel.DDP}; train.ddp_static_graph=false goes with {path}={Parallel.FSDP}"
        yield refused("train.ddp_static_graph", True, rule, (path,))


def _faults(spec: RunSpec) -> Iterator[Problem]:
    steps = Geometry.of(spec.train, spec.ranks).steps_per_epoch
    for index, fault in enumerate(spec.train.faults):
        path = f"train.faults.{index}"
        if fault.at_epoch > spec.train.epochs:
            rule = f"must be at most train.epochs={spec.train.epochs}"
            yield refused(f"{path}.at_epoch", fault.at_epoch, rule, ("train.faults", "train.epochs"))
        if fault.at_step > steps:
            rule = f"must be at most {steps}, the steps of an epoch"
            yield refused(f"{path}.at_step", fault.at_step, rule, ("train.faults", *_LENGTH))
        if fault.rank >= spec.ranks:
            rule = f"must be less than {spec.ranks}, the number of ranks"
            yield refused(f"{path}.rank", fault.rank, rule, ("train.faults", "resources"))


def _shards_alone(spec: RunSpec) -> Iterator[Problem]:
    data = spec.train.data
    for name in ("train_data_upsampling_factors", "max_punsafe", "allowed_schemes"):
        if (value := getattr(data, name)) and data.dataset_type is not DatasetType.WEBDATASET:
            rule = f"is for webdataset shards, not for train.data.dataset_type={data.dataset_type}"
            yield refused(f"train.data.{name}", value, rule, ("train.data.dataset_type",))


def _sources(spec: RunSpec) -> Iterator[Problem]:
    data = spec.train.data
    if data.train_data_upsampling_factors is None:
        return
    factors, count = data.train_data_upsampling_factors.split(BETWEEN_SOURCES), len(sources(data.train_data))
    if len(factors) != count:
        rule = f"must be as many as {TRAIN_DATA} has sources, which is {count}"
        yield refused(FACTORS, data.train_data_upsampling_factors, rule, (TRAIN_DATA,))
    if not all(map(_is_factor, factors)):
        rule = "must be numbers above 0 with :: between them, such as 2::1"
        yield refused(FACTORS, data.train_data_upsampling_factors, rule)
    if not data.dataset_resampled:
        rule = "is by what shards are drawn; train.data.dataset_resampled=true draws them"
        yield refused(FACTORS, data.train_data_upsampling_factors, rule, ("train.data.dataset_resampled",))


def _is_factor(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _paths(spec: RunSpec) -> Iterator[tuple[str, str]]:
    if spec.train.data.dataset_type is not DatasetType.SYNTHETIC:
        yield from ((TRAIN_DATA, source) for source in sources(spec.train.data.train_data))
    if spec.train.zeroshot is not None:
        yield ZEROSHOT_DATA, spec.train.zeroshot.data
    if spec.root is not None:
        yield "root", str(spec.root)


def _own_file(path: str, text: str) -> Iterator[Problem]:
    if not text.startswith("/"):
        meant = Path.cwd() / os.path.expandvars(os.path.expanduser(text))
        yield refused(path, text, f"must be absolute, or begin with ${{CLIPCTL_HOME}}/; try {shown(str(meant))}")
    elif path != "root":
        yield from _pattern(path, text)


def _remote(spec: RunSpec, path: str, text: str) -> Iterator[Problem]:
    """Only shards to train on, and only by schemes that somebody has allowed."""
    data, scheme = spec.train.data, scheme_of(text)
    if path != TRAIN_DATA or data.dataset_type is not DatasetType.WEBDATASET or scheme not in list(Scheme):
        yield refused(path, text, "must be a file; pipe: and URLs are not read: copy it to a disk that all ranks see")
    elif scheme not in data.allowed_schemes:
        rule = f"must be a file, unless {scheme} is allowed by name: train.data.allowed_schemes=[{scheme}]"
        yield refused(path, text, rule, (SCHEMES,))
    elif scheme != Scheme.PIPE and re.search(r"['\s]", text):
        yield refused(path, text, "must be without ' and blanks, as curl is told it by a shell")
    else:
        yield from _pattern(path, text)


def _pattern(path: str, text: str) -> Iterator[Problem]:
    try:
        deque(expand(text), maxlen=0)
    except ValueError as error:
        yield refused(path, text, str(error))


def _room(spec: RunSpec, cluster: Cluster) -> Iterator[Problem]:
    resources, gpus = spec.resources, cluster.gpus_per_node
    if gpus is not None and resources.ranks_per_node > gpus:
        rule = f"must be at most {gpus}, the GPUs of a node of {cluster.name}"
        yield refused("resources.ranks_per_node", resources.ranks_per_node, rule, ("cluster",))
    if cluster.scheduler == "local" and resources.nodes > 1:
        rule = f"must be 1: {cluster.name} is this machine alone"
        yield refused("resources.nodes", resources.nodes, rule, ("cluster",))


def _slurm(spec: RunSpec) -> Iterator[Problem]:
    """Slurm reads `%` in the names of logs as patterns, however quoted, and sbatch drops backslashes: both measured."""
    if found := sorted(set(str(spec.root)) & set("%\\")):
        yield refused("root", str(spec.root), f"must be without {' and '.join(found)}, which Slurm reads its own way")


def _no_slurm(spec: RunSpec, cluster: Cluster) -> Iterator[Problem]:
    for name, value in spec.slurm.given().items():
        yield refused(f"slurm.{name}", value, f"is for Slurm; {cluster.name} is this machine alone", ("cluster",))
    if spec.recovery.standby:
        yield refused("recovery.standby", True, f"waits in a queue, and {cluster.name} has none", ("cluster",))
