"""What an experiment folder of open_clip_train's would be as a run. Everything is read, nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from clipctl.adoption.options import Settings, settings_of
from clipctl.adoption.past import events_of, losses, read_results
from clipctl.diagnose import diagnose
from clipctl.domain import Evidence, Incident, IncidentKind
from clipctl.errors import InvalidSpec, NotFound, Refused, Unavailable
from clipctl.journal import landmarks
from clipctl.layout import RunFolder
from clipctl.ops.adopt.checkpoints import Tell, checkpoints
from clipctl.ops.clock import Clock
from clipctl.series import Series, Settings as OfSeries, flat, points_of
from clipctl.site.preflight import lasting
from clipctl.spec import Cluster, RunSpec, load_cluster, missing_data, patch_of, settled
from clipctl.spec.patch import nested
from trainer.contract import CheckpointManifest, Event, EventKind
from trainer.open_clip_log import Line, Progress, read_log, read_params

PARAMS, LOGS, RESULTS = "params.txt", ("out.log", "out-0"), "checkpoints/results.jsonl"
PROGRAM = "open_clip_train"
RECENT = 900.0  # seconds: an epoch's save and evaluation take longer than a line
# What says where data lies and what is kept, and nothing of how it was trained.
_MOVABLE = ("train.data.train_data", "train.zeroshot", "train.save.keep_last", "train.data.max_bad_fraction")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is to be, before anything is written."""

    source: Path
    log: Path | None
    spec: RunSpec
    cluster: Cluster
    checkpoints: Mapping[Path, CheckpointManifest]  # files of the source, oldest first
    left_out: tuple[str, ...]  # files that are no checkpoints to go on from, a line each
    notes: tuple[str, ...]
    events: tuple[Event, ...]
    incident: Incident | None

    @property
    def folder(self) -> RunFolder:
        assert self.spec.root is not None  # a local run has one by itself, and any other was refused without
        return RunFolder.of(self.spec.root, self.spec.name)

    @property
    def completed(self) -> bool:
        return self.events[-1].kind == EventKind.COMPLETED


# --- what would be ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wish:
    name: str | None = None
    cluster: str | None = None
    sets: Sequence[str] = ()
    without: Sequence[str] = ()  # options of params.txt that need not be honoured


def refuse_taken(source: Path, wish: Wish, names: Collection[str]) -> None:
    """Before gigabytes are read. A name among --set is looked at later."""
    name = wish.name or source.absolute().name
    if name in names:
        raise Refused(f"a run named '{name}' exists", hint="clipctl adopt DIR --name NAME")


def plan(source: Path, wish: Wish, *, fallback: Callable[[], str | None], tell: Tell, clock: Clock) -> Plan:
    """Reads everything, every byte of the checkpoints included.

    NotFound: no experiment of open_clip_train's, or no checkpoint in it. InvalidSpec: options that clipctl's trainer
    does not honour, or what is missing. Unavailable: a file cannot be read.
    """
    source = source.expanduser().absolute()
    try:
        return _plan(source, wish, fallback, tell, clock.now())
    except OSError as error:
        raise Unavailable(f"{error.filename or source}: {error.strerror}", hint=f"ls -l {source}") from error


def _plan(source: Path, wish: Wish, fallback: Callable[[], str | None], tell: Tell, now: float) -> Plan:
    settings = _settings(source, wish)
    log = next((source / name for name in LOGS if (source / name).exists()), None)
    lines = _lines(log) if log is not None else []
    spec = _spec(source, settings, lines, wish, fallback)
    profile = load_cluster(spec.cluster)
    _refuse_other_ranks(spec, settings)
    if lacking := tuple(lasting(spec, profile)):
        raise InvalidSpec(lacking, f"clipctl doctor --cluster {profile.name}")
    found, left_out = checkpoints(source / "checkpoints", spec, losses(lines), tell)
    events = events_of(
        lines,
        spec.train,
        spec.ranks,
        checkpoints=tuple(found.values()),
        evaluations=read_results(_text(source / RESULTS) or ""),
        source=str(source),
        time=_modified(source / PARAMS),
    )
    return Plan(
        source=source,
        log=log,
        spec=spec,
        cluster=profile,
        checkpoints=found,
        left_out=left_out,
        notes=(*settings.notes, *_notes(source, log, spec, now)),
        events=events,
        incident=_incident(events, spec, profile, now),
    )


def _settings(source: Path, wish: Wish) -> Settings:
    path = source / PARAMS
    text = _text(path)
    if text is None:
        what = "is no folder" if not source.is_dir() else f"has no {PARAMS}: it is no experiment of {PROGRAM}'s"
        raise NotFound(f"{source}: {what}", hint="clipctl adopt DIR (the folder below --logs that --name names)")
    try:
        settings = settings_of(read_params(text))
    except ValueError as error:
        raise InvalidSpec((f"{path}: {error}",)) from error
    against = {name: why for name, why in settings.refused.items() if name not in wish.without}
    if unknown := [name for name in wish.without if name not in settings.refused]:
        raise InvalidSpec(
            tuple(f"--without {name}: {path} has no such option that must be left out" for name in unknown)
        )
    if against:
        lines = tuple(f"{path}: {name}: {why}" for name, why in against.items())
        raise InvalidSpec(
            lines, " ".join([f"clipctl adopt {quote(str(source))}", *(f"--without {name}" for name in against)])
        )
    return settings


def _spec(
    source: Path, settings: Settings, lines: Sequence[Line], wish: Wish, fallback: Callable[[], str | None]
) -> RunSpec:
    told = {f"train.{path}": value for path, value in settings.train.items()}
    seen = next((line.fact.samples_per_epoch for line in lines if isinstance(line.fact, Progress)), None)
    if "train.data.train_num_samples" not in told and seen is not None:
        told["train.data.train_num_samples"] = seen  # counted by open_clip, where it was not told
    patch = patch_of(wish.sets)
    _refuse_another_past(told, patch, source)
    cluster = wish.cluster or patch.get("cluster") or fallback()
    patch |= {"name": wish.name or patch.get("name") or source.name} | ({"cluster": cluster} if cluster else {})
    if settings.ranks is None and not any(path.startswith("resources.") for path in patch):
        hint = "--set resources.nodes=N --set resources.ranks_per_node=M"
        raise InvalidSpec((f"{source / PARAMS}: no world_size: it does not say how many ranks there were",), hint)
    ranks = _resources(settings.ranks, str(cluster)) if settings.ranks and cluster else {}
    origins = {tuple(path.split(".")): str(source / PARAMS) for path in told}
    return settled(nested(told | ranks), patch, origins)


def _refuse_another_past(told: Mapping[str, Any], patch: Mapping[str, Any], source: Path) -> None:
    """What ran, ran: another value belongs to the resume."""
    wrong = [
        path
        for path in patch
        if not any(f"{path}.".startswith(f"{each}.") for each in _MOVABLE) and any(_meets(path, each) for each in told)
    ]
    if wrong:
        lines = (f"--set {path}: {source / PARAMS} says how it was trained" for path in wrong)
        raise InvalidSpec(tuple(lines), "clipctl resume RUN --set KEY=VALUE, once it is taken over")


def _meets(path: str, other: str) -> bool:
    return f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}.")


def _resources(ranks: int, cluster: str) -> dict[str, Any]:
    """As many as there were; where they do not fill nodes of this cluster, a person says how they are spread."""
    gpus = load_cluster(cluster).gpus_per_node
    if gpus is None or ranks <= gpus:
        return {"resources.nodes": 1, "resources.ranks_per_node": ranks}
    return {"resources.nodes": ranks // gpus, "resources.ranks_per_node": gpus} if ranks % gpus == 0 else {}


def _refuse_other_ranks(spec: RunSpec, settings: Settings) -> None:
    if settings.ranks is not None and spec.ranks != settings.ranks:
        nodes, each = spec.resources.nodes, spec.resources.ranks_per_node
        line = f"resources: {nodes} x {each} ranks: it was trained by {settings.ranks}, by which its steps are counted"
        hint = "--set resources.nodes=N --set resources.ranks_per_node=M; other numbers with clipctl resume RUN --set"
        raise InvalidSpec((line,), hint)


# --- what is there ------------------------------------------------------------------------------------


def _text(path: Path) -> str | None:
    """None: it is not there."""
    try:
        return path.read_text("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _lines(log: Path) -> list[Line]:
    """Nobody writes on: a torn end says what it says."""
    return read_log((_text(log) or "").encode() + b"\n")[0]


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def _notes(source: Path, log: Path | None, spec: RunSpec, now: float) -> Iterator[str]:
    if log is None:
        yield f"{source} has no {LOGS[0]}: its past is its checkpoints alone"
    elif now - _modified(log) < RECENT:
        yield f"{log} was written {now - _modified(log):.0f} s ago: make sure that nothing trains there any more"
    yield from (f"not on this machine now: {line}" for line in missing_data(spec))


def _incident(events: Sequence[Event], spec: RunSpec, cluster: Cluster, now: float) -> Incident | None:
    """By the same rules as for an attempt of ours whose job is gone."""
    marks, train = landmarks(events), spec.train
    optim, batch = train.optim, train.batch_size * train.accum_freq * spec.ranks
    settings = OfSeries(batch=batch, warmup=optim.warmup, precision=train.precision)
    points = tuple(points_of((flat(event) for event in events), 1, settings, newest=settings))
    evidence = Evidence(
        attempt=1,
        time=now,
        job=None,
        observed=True,
        submitted=True,
        missing_since=0.0,
        final=marks.final,
        diverged=marks.diverged,
        progress=marks.progress,
        started=marks.started,
        series=Series(points=points, warmup=optim.warmup) if points else None,
    )
    found = diagnose(evidence, cluster.limits, now=now)
    if found is not None and found.kind is IncidentKind.LOST:
        return replace(found, detail="its log ends without a word", lines=())
    return found
