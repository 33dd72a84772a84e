"""Brings a cluster up and takes it down, and does to it what happens to real ones."""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from tests.cluster import database, processes, registry
from tests.cluster.settings import Settings, gres_conf, profile, slurm_conf

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "srun", "scancel")
ACCOUNTING = ("slurmdbd", "sacctmgr", "sacct", *database.PROGRAMS)
PATIENCE = 60.0  # seconds
PORTS = range(20_000, 31_000)  # below those that systems give to clients


class Missing(Exception):
    """Programs that are not installed."""


class Cluster:
    """Daemons on this machine, known by the ids of their processes. `settings.folder` holds all that they write."""

    def __init__(self, settings: Settings, pids: dict[str, int]) -> None:
        self.settings = settings
        self.folder = settings.folder
        self._pids = pids  # by "controller", "slurmdbd", "database", "munged" and the names of nodes

    # --- up and down ----------------------------------------------------------------------------

    @classmethod
    def up(
        cls,
        folder: Path,
        *,
        nodes: int = 6,
        gpus: int = 4,
        accounting: bool = False,
        kill_wait: int = 5,
        min_job_age: int = 300,
        grace: int = 10,
        owner: int | None = None,
    ) -> Self:
        """All nodes idle. `owner`: a process with whose end it is over (cleaned by the next `up`). Missing."""
        refuse_missing(accounting)
        registry.clean()
        folder = folder.resolve()
        settings = Settings(
            folder=folder, user=getpass.getuser(), nodes=nodes, gpus=gpus, port=_free_port(nodes + 2),
            accounting=accounting, kill_wait=kill_wait, min_job_age=min_job_age, grace=grace,
        )  # fmt: skip
        cluster = cls(settings, {})
        registry.enter(folder, owner)
        try:
            cluster._start_all()
        except BaseException:
            cluster.down(keep=True)
            raise
        return cluster

    @classmethod
    def open(cls, folder: Path) -> Self:
        """One that another process has brought up."""
        known = json.loads((folder / "cluster.json").read_text())
        settings = Settings(**known["settings"] | {"folder": folder})
        return cls(settings, known["pids"])

    def down(self, *, keep: bool = False) -> None:
        """`keep`: the folder, with its logs."""
        for pid in self._pids.values():
            processes.send(pid, signal.SIGCONT)
        processes.end_all(self.folder)
        registry.leave(self.folder)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def _start_all(self) -> None:
        self._write_files()
        key = self.folder / "munge.key"
        munged = ["munged", "-F", f"--key-file={key}", f"--socket={self.folder}/munge.socket"]
        munged += [f"--{name}-file={self.folder}/run/munge.{name}" for name in ("pid", "seed")]
        self._start("munged", [*munged, f"--log-file={self.folder}/log/munged.log", "--force"])
        self._until((self.folder / "munge.socket").exists, "munged")
        if self.settings.accounting:
            self._start_accounting()
        self.start_controller()
        for name in self.settings.names:
            self._start_node(name)
        self.wait_idle()

    def _write_files(self) -> None:
        folder = self.folder
        for name in ("run", "log", "state", "spool", "gpu", "config/clipctl/clusters"):
            (folder / name).mkdir(parents=True, mode=0o755)
        folder.chmod(0o755)
        for name in self.settings.names:
            (folder / "spool" / name).mkdir()
        for number in range(self.settings.gpus):
            self._make_gpu(folder / "gpu" / f"nvidia{number}")
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        (folder / "slurm.conf").write_text(slurm_conf(self.settings))
        (folder / "gres.conf").write_text(gres_conf(self.settings))

    @staticmethod
    def _make_gpu(path: Path) -> None:
        """With `Count=4` instead of files the nodes are INVAL. Only root can make a device; Slurm takes any file."""
        if os.getuid() == 0:
            os.mknod(path, 0o666 | 0o020000, os.makedev(1, 3))
        else:
            path.symlink_to("/dev/null")

    # --- for clients ----------------------------------------------------------------------------

    @property
    def environ(self) -> Mapping[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "XDG_CONFIG_HOME": str(self.folder / "config")}

    def run(self, *command: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """A client's command; its failure is the caller's to judge."""
        return subprocess.run(
            command, env=os.environ | self.environ, capture_output=True, text=True, timeout=timeout, check=False
        )

    def profile(self, root: Path, partition: str = "booster") -> Path:
        """Writes clipctl's profile of this cluster, `emulated`, where `environ` has clipctl look for it."""
        path = self.folder / "config/clipctl/clusters/emulated.yaml"
        path.write_text(profile(root, partition))
        return path

    def states(self) -> dict[str, str]:
        """Of the nodes, as Slurm has them."""
        listed = self.run("sinfo", "--noheader", "--Node", "--partition=booster", "--format=%N %T").stdout
        return dict(line.split() for line in listed.splitlines())

    def wait_idle(self) -> None:
        names = set(self.settings.names)
        self._until(lambda: (found := self.states()).keys() == names and set(found.values()) == {"idle"}, "idle nodes")

    def clear(self) -> None:
        """As new: no job, no node down, everything answers."""
        self.thaw()
        for name in [name for name in self.settings.names if name not in self._pids]:
            self.revive(name)
        if "controller" not in self._pids:
            self.start_controller()
        if self.settings.accounting and "slurmdbd" not in self._pids:
            self.start_slurmdbd()
        self._until(lambda: self.run("scontrol", "ping").returncode == 0, "slurmctld")
        for reservation in self._reservations():
            self.run("scontrol", "delete", f"reservation={reservation}")
        self.run("scancel", "--user", self.settings.user)
        self.run("scancel", "--user", self.settings.user, "--signal=KILL", "--full")
        self._until(lambda: not self.run("squeue", "--noheader", "--format=%i").stdout.strip(), "an empty queue")
        self.wait_idle()

    def _reservations(self) -> list[str]:
        listed = self.run("scontrol", "show", "reservation", "--oneliner").stdout
        return re.findall(r"^ReservationName=(\S+)", listed, re.MULTILINE)

    # --- what happens to clusters ---------------------------------------------------------------

    def start_controller(self) -> None:
        self._start("controller", ["slurmctld", "-D", "-f", str(self.folder / "slurm.conf")])
        self._until(lambda: self.run("scontrol", "ping").returncode == 0, "slurmctld")

    def stop_controller(self) -> None:
        self._end("controller")

    def restart_controller(self, *, lose_state: bool = False) -> None:
        """Killed and started again; `lose_state`: without what it had saved."""
        self.stop_controller()
        if lose_state:
            shutil.rmtree(self.folder / "state")
            (self.folder / "state").mkdir(mode=0o755)
        self.start_controller()

    def freeze_controller(self) -> None:
        processes.send(self._pids["controller"], signal.SIGSTOP)

    def freeze_slurmdbd(self) -> None:
        processes.send(self._pids["slurmdbd"], signal.SIGSTOP)

    def freeze_node(self, name: str) -> None:
        """Its slurmd hears nothing: jobs there cannot be ended."""
        processes.send(self._pids[name], signal.SIGSTOP)

    def thaw(self) -> None:
        """Everything that was frozen."""
        for pid in self._pids.values():
            processes.send(pid, signal.SIGCONT)

    def kill_node(self, name: str, *, ranks: bool = True) -> None:
        """A dead node is slurmd, steps and ranks. Without `ranks` they go on, and nobody hears of them."""
        doomed = processes.of_node(self.folder, name) if ranks else set()
        self._end(name)
        processes.end(doomed)
        self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=killed")

    def revive(self, name: str) -> None:
        self._start_node(name)
        self.run("scontrol", "update", f"nodename={name}", "state=resume")
        self._until(lambda: self.states().get(name) == "idle", f"{name} idle")

    def stop_slurmdbd(self) -> None:
        self._end("slurmdbd")

    def start_slurmdbd(self) -> None:
        self._start("slurmdbd", ["slurmdbd", "-D"], MYSQL_UNIX_PORT=str(self.folder / "database.socket"))
        self._until(lambda: self.run("sacctmgr", "--noheader", "list", "cluster").returncode == 0, "slurmdbd")

    # --- daemons --------------------------------------------------------------------------------

    def _start_accounting(self) -> None:
        self._pids["database"] = database.start(self.folder, self.settings, self._until)
        self.start_slurmdbd()
        database.introduce(self.run, self.settings.user)

    def _start_node(self, name: str) -> None:
        self._start(name, ["slurmd", "-D", "-N", name, "-f", str(self.folder / "slurm.conf")])

    def _start(self, name: str, command: list[str], **more: str) -> None:
        self._pids[name] = processes.start(command, self.folder, f"{name}.out", self.environ | more)
        self._save()

    def _end(self, name: str) -> None:
        pid = self._pids.pop(name)
        self._save()
        processes.send(pid, signal.SIGKILL)
        self._until(lambda: processes.start_time(pid) == "", f"the end of {name}")

    def _save(self) -> None:
        known = {"settings": dataclasses.asdict(self.settings) | {"folder": str(self.folder)}, "pids": self._pids}
        (self.folder / "cluster.json").write_text(json.dumps(known))

    def _until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            dead = [name for name, pid in self._pids.items() if processes.start_time(pid) == ""]
            if dead:
                raise RuntimeError(f"{', '.join(dead)} died; see {self.folder}/log")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} within {PATIENCE:.0f} s; see {self.folder}/log")
            time.sleep(0.05)


def refuse_missing(accounting: bool) -> None:
    wanted = PROGRAMS + (ACCOUNTING if accounting else ())
    absent = [name for name in wanted if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if absent:
        raise Missing(f"not installed: {', '.join(absent)} (apt install slurm-wlm munge slurmdbd mariadb-server)")


def _free_port(count: int) -> int:
    """The first of `count` free ones in a row."""
    start = PORTS.start + secrets.randbelow(len(PORTS) - count)
    while any(not _is_free(port) for port in range(start, start + count)):
        start = PORTS.start + secrets.randbelow(len(PORTS) - count)
    return start


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
