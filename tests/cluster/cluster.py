"""One cluster: its start, what can be done to it, its end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from . import daemons, owner
from .daemons import ClusterError, wait_for
from .plan import Plan, free_ports, read_plan
from .processes import Process, end, of_cluster, of_node, ranks, send
from .profile import merged, profile, yaml
from .settings import gres_conf, slurm_conf, slurmdbd_conf


@dataclass(frozen=True)
class Cluster:
    plan: Plan

    @classmethod
    def up(
        cls,
        folder: Path,
        *,
        nodes: int = 6,
        gpus: int = 4,
        accounting: bool = False,
        owner_pid: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Cluster:
        """Starts a cluster in a folder that is new or empty, and waits until all its nodes are idle.

        It ends with `down`; where its owner, by default this process, dies before, the next `up` of anybody ends it.
        `settings` win over ours in slurm.conf: {"MinJobAge": "5"}. ClusterError.
        """
        owner.remove_ownerless()
        _check(folder, accounting)
        folder.mkdir(parents=True, exist_ok=True)
        owner.claim(folder, os.getpid())
        plan = Plan(folder.resolve(), nodes, gpus, accounting, free_ports(nodes + 2), settings or {})
        cluster = cls(plan)
        try:
            cluster._start()
        except BaseException as error:
            names = ("start", "munged", "mariadbd", "slurmdbd", "slurmctld", plan.names[0])
            logs = "\n".join(f"--- {name}\n{cluster.said(name)}" for name in names)
            cluster.down()
            if isinstance(error, ClusterError):
                raise ClusterError(f"{error}\n{logs}") from None
            raise
        if owner_pid is not None:
            owner.claim(plan.folder, owner_pid)
        return cluster

    @classmethod
    def at(cls, folder: Path) -> Cluster:
        """The cluster that runs there. ClusterError."""
        try:
            return cls(read_plan(folder))
        except FileNotFoundError:
            raise ClusterError(f"no cluster in {folder}") from None

    def down(self) -> None:
        """Ends all its processes, jobs included, and removes its folder."""
        owner.remove(self.plan.folder)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.down()

    def _start(self) -> None:
        plan = self.plan
        _write_files(plan)
        daemons.start_munged(plan)
        if plan.accounting:
            daemons.start_database(plan)
            daemons.start_slurmdbd(plan)
            daemons.register(plan)
        daemons.start_slurmctld(plan)
        for node in plan.names:
            daemons.start_slurmd(plan, node)
        self.wait_idle()

    # What clients need

    @property
    def folder(self) -> Path:
        return self.plan.folder

    @property
    def nodes(self) -> list[str]:
        return self.plan.names

    def node(self, index: int) -> str:
        return self.plan.names[index]

    @property
    def environ(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.plan.slurm_conf)}

    def run(self, *argv: str, check: bool = True, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A Slurm command, without what this process's own job says of itself."""
        foreign = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SACCT_", "SINFO_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | self.environ
        return subprocess.run(argv, env=environment, check=check, timeout=timeout, text=True, capture_output=True)

    def said(self, name: str) -> str:
        """The end of a daemon's log; a slurmd goes by its node's name."""
        log = self.plan.log(name)
        return log.read_text(errors="replace")[-3000:] if log.exists() else ""

    @property
    def config_home(self) -> Path:
        """What XDG_CONFIG_HOME has to be for clipctl to find the profile."""
        return self.folder / "config"

    def profile(self, root: Path, **changes: object) -> Path:
        """Writes clipctl's profile `emulated`; mappings among the changes are merged: limits={"lost_after": 2}."""
        file = self.config_home / "clipctl/clusters/emulated.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([*yaml(merged(profile(self.plan, root), changes)), ""]))
        return file

    # Nodes

    def states(self) -> dict[str, str]:
        """Slurm's word for each node, `*` included where it does not answer."""
        lines = self.run("sinfo", "-h", "-N", "-p", "urgent", "-o", "%N %t").stdout.splitlines()
        return dict(line.split() for line in lines)

    def wait_idle(self, patience: float = 120.0) -> None:
        def idle() -> bool:
            states = self.states()
            return len(states) == self.plan.nodes and set(states.values()) == {"idle"}

        wait_for("all nodes idle", idle, patience)

    def kill_node(self, name: str, ranks: bool = True) -> None:
        """A node dies, and Slurm learns it. Without `ranks` only its slurmd does: what runs there goes on writing."""
        end(lambda: of_node(self.folder, name) if ranks else self._slurmd(name))
        wait_for(f"{name} down", lambda: self._is_down(name))

    def _is_down(self, name: str) -> bool:
        """Told again where an answer that it gave before its end has put it back into service."""
        if self.states()[name].startswith("down"):
            return True
        self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=killed")
        return False

    def revive(self, name: str) -> None:
        """A node that comes back empty."""
        self._boot(name)
        self.resume(name)

    def resume(self, name: str) -> None:
        """Back into service, until it answers. May be told too late: who registers returns to service by itself."""
        self._resume(name)
        wait_for(f"{name} idle", lambda: self.states()[name] == "idle")

    def _resume(self, name: str) -> None:
        self.run("scontrol", "update", f"nodename={name}", "state=resume", check=False)

    def _boot(self, name: str) -> None:
        end(lambda: of_node(self.folder, name))
        daemons.start_slurmd(self.plan, name)

    def _slurmd(self, node: str) -> list[Process]:
        return [item for item in of_node(self.folder, node) if item.program == "slurmd"]

    # The controller and slurmdbd

    def freeze_controller(self) -> None:
        """It neither answers nor refuses."""
        send(signal.SIGSTOP, self._daemon("slurmctld"))

    def stop_controller(self) -> None:
        """In order: its state is written."""
        self._stop("slurmctld")

    def start_controller(self) -> None:
        """Nodes register at once, not when they are asked to 4 s later."""
        daemons.start_slurmctld(self.plan)
        send(signal.SIGHUP, self._daemon("slurmd"))

    def restart_controller(self, lose_state: bool = False) -> None:
        """kill -9, and a start, with all that it knew of jobs gone if so asked."""
        end(lambda: self._daemon("slurmctld"))
        if lose_state:
            shutil.rmtree(self.folder / "state")
            (self.folder / "state").mkdir()
        self.start_controller()

    def freeze_slurmdbd(self) -> None:
        send(signal.SIGSTOP, self._daemon("slurmdbd"))

    def stop_slurmdbd(self) -> None:
        self._stop("slurmdbd")

    def start_slurmdbd(self) -> None:
        daemons.start_slurmdbd(self.plan)

    def thaw(self) -> None:
        """Whatever was frozen."""
        send(signal.SIGCONT, self._daemon("slurmctld") + self._daemon("slurmdbd"))

    def restore(self) -> None:
        """As it was at first: no job, no reservation, every daemon up, every node idle.

        Other changes by `scontrol` or `sacctmgr` are to be undone by whoever made them.
        """
        self.thaw()
        if self.plan.accounting and not self._daemon("slurmdbd"):
            self.start_slurmdbd()
        if not self._daemon("slurmctld"):
            self.start_controller()
        for line in self.run("scontrol", "-o", "show", "reservation").stdout.splitlines():
            if line.startswith("ReservationName="):
                self.run("scontrol", "delete", line.split()[0])
        for name in self.nodes:
            if not self._slurmd(name):
                self._boot(name)
        cancelled: set[str] = set()
        wait_for("no jobs and idle nodes", lambda: self._calm(cancelled), patience=120.0)

    def _calm(self, cancelled: set[str]) -> bool:
        """Ends what runs, without KillWait for ranks that do not heed SIGTERM, and says whether nothing did."""
        jobs = set(self.run("squeue", "-h", "-o", "%A").stdout.split())
        if new := jobs - cancelled:
            self.run("scancel", *new, check=False)  # one may have ended by itself
            cancelled |= new
        send(signal.SIGKILL, ranks(self.folder))
        states = self.states()
        for name, state in states.items():
            if state.startswith(("down", "drain", "drng", "fail")):
                self._resume(name)
        return not jobs and set(states.values()) == {"idle"}

    def _daemon(self, program: str) -> list[Process]:
        return [item for item in of_cluster(self.folder) if item.program == program]

    def _stop(self, program: str) -> None:
        send(signal.SIGTERM, self._daemon(program))
        send(signal.SIGCONT, self._daemon(program))  # it may have been frozen
        wait_for(f"end of {program}", lambda: not self._daemon(program))


def _check(folder: Path, accounting: bool) -> None:
    if missing := daemons.missing_programs(accounting=accounting):
        raise ClusterError(f"not installed: {', '.join(missing)}; apt install slurm-wlm munge slurmdbd mariadb-server")
    if len(f"{folder.resolve()}{daemons.LONGEST_SOCKET}") > 107:
        raise ClusterError(f"{folder}: too long a path for sockets below it")
    if folder.exists() and os.listdir(folder):
        raise ClusterError(f"{folder} is not empty: is a cluster up there?")


def _write_files(plan: Plan) -> None:
    for name in ("log", "spool", "state", "run", "gpu"):
        (plan.folder / name).mkdir()
    for number in range(plan.gpus):
        (plan.folder / f"gpu/nvidia{number}").symlink_to("/dev/null")  # Slurm wants a device, and no mknod needs root
    plan.write()
    plan.slurm_conf.write_text(slurm_conf(plan))
    (plan.folder / "gres.conf").write_text(gres_conf(plan))
    if plan.accounting:
        database = plan.folder / "slurmdbd.conf"
        database.touch(mode=0o600)  # slurmdbd refuses anything else
        database.write_text(slurmdbd_conf(plan))
