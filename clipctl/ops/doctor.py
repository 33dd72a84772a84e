"""Is this site ready for a run? All findings, the good ones too. Nothing is changed; a job is run only if asked for."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from clipctl.backends.transport import Transport
from clipctl.home import home
from clipctl.site import preflight, slurm
from clipctl.site.disks import disk_of
from clipctl.spec import Cluster, RunSpec
from trainer.contract import SCHEMA

CLOCK_TOLERANCE = 5.0  # seconds between this host's clock and a file system's
QUEUE_PATIENCE = 120.0  # seconds for the one-minute job to start
GB = 1e9
PROBE = (
    "import importlib.metadata as m, platform, sys, trainer.contract; "
    "print('python', platform.python_version(), *(f'{p} {m.version(p)}' for p in ('clipctl', 'torch')))"
)
TASK = 'if [ ! -w "$2" ]; then echo "cannot write to $2"; exit 1; fi; exec "$0" -P -c "$1"'


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"  # clipctl works without it, less well
    PROBLEM = "problem"  # a launch would be refused, or fail


@dataclass(frozen=True, kw_only=True)
class Finding:
    subject: str
    level: Level
    text: str


@dataclass(frozen=True, kw_only=True)
class Report:
    cluster: str
    findings: tuple[Finding, ...]
    schema: int = SCHEMA

    @property
    def ready(self) -> bool:
        return all(finding.level is not Level.PROBLEM for finding in self.findings)


def examine(
    cluster: Cluster, spec: RunSpec | None, lacking: Sequence[str], transport: Transport, *, run_job: bool
) -> Report:
    """`spec`: also whether this run could be launched here; `lacking`: what a launch of it would refuse for."""
    findings = [*_home(), *_cron()]
    if cluster.scheduler == "slurm":
        findings += _slurm(cluster, spec, transport)
    findings += [_problem("launch", line) for line in lacking]
    if spec is not None and not lacking:
        findings.append(_ok("launch", f"{spec.name}: nothing is missing"))
    root = spec.root if spec else cluster.root
    if root is not None:
        findings += _root(root)
    if run_job:
        findings.append(_compute_node(cluster, spec, root, transport))
    return Report(cluster=cluster.name, findings=tuple(findings))


# --- this host --------------------------------------------------------------------------------------


def _home() -> Iterator[Finding]:
    disk = disk_of(home())
    if disk is None or not disk.writable:
        yield _problem("home", f"{home()} cannot be written to: export CLIPCTL_HOME=...")
        return
    yield _ok("home", f"{home()} on {disk.kind or 'an unknown file system'}, {disk.free / GB:,.1f} GB left")


def _cron() -> Iterator[Finding]:
    """For the watchdog: either will do."""
    found = [name for name in ("crontab", "scrontab") if shutil.which(name)]
    if found:
        yield _ok("cron", " and ".join(found))
    else:
        yield _warning("cron", "neither crontab nor scrontab is here")


# --- Slurm ------------------------------------------------------------------------------------------


def _slurm(cluster: Cluster, spec: RunSpec | None, transport: Transport) -> Iterator[Finding]:
    absent = [name for name in slurm.BINARIES if not slurm.there(transport, name)]
    if absent:
        yield _problem("slurm", f"not on this machine: {', '.join(absent)}")
    site = slurm.ask(transport)
    if isinstance(site, slurm.Absent):
        yield _problem("slurm", site.reason)
    else:
        yield _ok("slurm", f"{site.version}, cluster {site.cluster_name}")
        yield _accounting(site, transport)
        chosen = preflight.partitions(site, (spec or cluster).slurm)
        yield from (_ok("partition", _words(partition)) for partition in chosen)


def _accounting(site: slurm.Site, transport: Transport) -> Finding:
    forgotten = f"how a job ended is remembered for {site.memory} s (MinJobAge)"
    if not site.accounting:
        return _warning("accounting", f"there is none: {forgotten}, and by the run's own files")
    answer = transport.run(["sacct", "--noheader", "--allocations", "--format=JobID"], timeout=slurm.TIMEOUT)
    if answer.code != 0:
        return _warning("accounting", f"sacct does not answer ({answer.failure}): {forgotten} until it does")
    return _ok("accounting", "sacct answers")


def _words(partition: slurm.Partition) -> str:
    wall = "no limit" if partition.max_seconds is None else preflight.clock(partition.max_seconds)
    return f"{partition.name}: {partition.nodes} nodes, wall time {wall}, {'up' if partition.up else 'NOT up'}"


# --- the shared root --------------------------------------------------------------------------------


def _root(root: Path) -> Iterator[Finding]:
    disk = disk_of(root)
    if disk is None or not disk.writable:
        yield _problem("root", f"{root} cannot be written to")
        return
    text = f"{root} on {disk.kind or 'an unknown file system'}, {disk.free / GB:,.0f} GB left"
    if disk.shared:
        yield _ok("root", text)
    else:
        yield _warning("root", f"{text}; whether nodes see it is not known: clipctl doctor --job finds out")
    try:
        yield _clock(next(each for each in (root, *root.parents) if each.is_dir()))
    except OSError as error:  # to root every folder seems to be writable
        yield _problem("root", f"{root} cannot be written to: {error.strerror}")


def _clock(folder: Path) -> Finding:
    """Ages are never taken between two hosts' clocks; a file server's that is far off still confuses people."""
    before = time.time()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clipctl-doctor-") as file:
        ahead = Path(file.name).stat().st_mtime - before
    if abs(ahead) > CLOCK_TOLERANCE:
        return _warning("clock", f"the file system's differs from this host's by {ahead:+.0f} s")
    return _ok("clock", "this host and the file system agree")


def _compute_node(cluster: Cluster, spec: RunSpec | None, root: Path | None, transport: Transport) -> Finding:
    """One task for a minute: does our Python start there, and is the root there?"""
    options = (spec or cluster).slurm
    given = {"partition": options.partition, "account": options.account, "qos": options.qos}
    arguments = [f"--{name}={value}" for name, value in given.items() if value]
    command = ["srun", "--nodes=1", "--ntasks=1", "--time=1", f"--immediate={QUEUE_PATIENCE:.0f}", *arguments]
    task = ["bash", "-c", TASK, sys.executable, PROBE, str(root or "/tmp")]
    answer = transport.run([*command, *task], timeout=QUEUE_PATIENCE + 90)
    said = " ".join(answer.out.split())
    if answer.code != 0:
        return _problem("compute node", f"{said} {answer.failure}".strip())
    return _ok("compute node", said)


def _ok(subject: str, text: str) -> Finding:
    return Finding(subject=subject, level=Level.OK, text=text)


def _warning(subject: str, text: str) -> Finding:
    return Finding(subject=subject, level=Level.WARNING, text=text)


def _problem(subject: str, text: str) -> Finding:
    return Finding(subject=subject, level=Level.PROBLEM, text=text)
