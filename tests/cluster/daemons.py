"""Starts each daemon, with an environment of its own, and waits until it answers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .plan import Plan
from .processes import MARK, of_cluster
from .settings import ACCOUNT, CLUSTER_NAME

SLURM = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr")
# Daemons lie where an ordinary user's PATH does not look.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
LONGEST_SOCKET = "/spool/jwb0001/jwb0001_4294967295.4294967295"  # a slurmstepd's; Linux allows 107 characters in all


class ClusterError(RuntimeError):
    """A cluster that cannot be started, or does not do what it was told."""


def missing_programs(*, accounting: bool) -> list[str]:
    wanted = SLURM + (ACCOUNTING if accounting else ())
    return [name for name in wanted if shutil.which(name, path=PATH) is None]


def start_munged(plan: Plan) -> None:
    """With a key and a socket of its own; the machine's munged, if there is one, is left alone."""
    key = plan.folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    files = {"socket": plan.munge_socket, "key-file": key, "log-file": plan.log("munged")}
    files |= {"pid-file": plan.folder / "run/munged.pid", "seed-file": plan.folder / "run/munged.seed"}
    # --force: it would rather not be in a folder that others cannot enter, such as pytest's.
    _launch(plan, "munged", "--force", *(f"--{name}={path}" for name, path in files.items()))


def start_database(plan: Plan) -> None:
    """MariaDB without users, network and durability."""
    data = ("--no-defaults", f"--user={plan.user}", f"--datadir={plan.folder}/database", "--innodb-log-file-size=4M")
    # slurmdbd keeps procedures in the database: without the system tables associations come out wrong, and
    # slurmctld then dies of them.
    _launch(plan, "mariadb-install-db", *data, "--skip-test-db", "--skip-name-resolve")
    small = ("--innodb-buffer-pool-size=16M", "--performance-schema=off", "--skip-log-bin")
    fast = ("--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-flush-method=nosync")
    closed = ("--skip-networking", "--skip-grant-tables", f"--socket={plan.database_socket}")
    files = (f"--log-error={plan.log('mariadbd')}", f"--pid-file={plan.folder}/run/mariadbd.pid")
    _launch(plan, "setsid", "--fork", "mariadbd", *data, *small, *fast, *closed, *files)
    _wait_for_answer(plan, "mariadbd", plan.database_socket)


def start_slurmdbd(plan: Plan) -> None:
    conf = plan.folder / "slurmdbd.conf"
    _launch(plan, "slurmdbd", SLURM_CONF=str(conf), MYSQL_UNIX_PORT=str(plan.database_socket))
    _wait_for_answer(plan, "slurmdbd", ("127.0.0.1", plan.port + 1))


def register(plan: Plan) -> None:
    """The cluster, an account and its user, in the accounting's database."""
    where = f"cluster={CLUSTER_NAME}"
    commands = [
        f"add cluster {CLUSTER_NAME}",
        f"add account {ACCOUNT} {where}",
        f"add user {plan.user} account={ACCOUNT} {where}",
    ]
    if plan.user == "root":  # slurmdbd itself has put it into another account
        commands.append(f"modify user where user=root set defaultaccount={ACCOUNT}")
    for command in commands:
        _launch(plan, "sacctmgr", "-i", *command.split(), SLURM_CONF=str(plan.slurm_conf))


def start_slurmctld(plan: Plan) -> None:
    _launch(plan, "slurmctld", "-f", str(plan.slurm_conf))
    _wait_for_answer(plan, "slurmctld", ("127.0.0.1", plan.port))


def start_slurmd(plan: Plan, node: str) -> None:
    _launch(plan, "slurmd", "-N", node, "-f", str(plan.slurm_conf))


def wait_for(what: str, ready: Callable[[], bool], patience: float = 60.0) -> None:
    """ClusterError after so many seconds."""
    limit = time.monotonic() + patience
    while not ready():
        if time.monotonic() > limit:
            raise ClusterError(f"{what}: not so after {patience:.0f} s")
        time.sleep(0.05)


def _wait_for_answer(plan: Plan, program: str, address: Path | tuple[str, int]) -> None:
    """A daemon whose settings are wrong ends in the background, its words in its log."""
    seen, misses = time.monotonic(), 0

    def answers() -> bool:
        nonlocal seen, misses
        if _listens(address):
            return True
        if any(item.program == program for item in of_cluster(plan.folder)):
            seen, misses = time.monotonic(), 0
            return False
        misses += 1  # one look may miss it while it forks; among hundreds of busy ranks a look takes seconds
        if misses > 3 and time.monotonic() - seen > 1:
            raise ClusterError(f"{program} ended")
        return False

    wait_for(program, answers)


def _listens(address: Path | tuple[str, int]) -> bool:
    family, where = (socket.AF_UNIX, str(address)) if isinstance(address, Path) else (socket.AF_INET, address)
    with socket.socket(family) as caller:
        return caller.connect_ex(where) == 0


def _launch(plan: Plan, program: str, *arguments: str, **environment: str) -> None:
    """Runs a program that ends or goes to the background. Nothing of our environment reaches it, nor its jobs."""
    bare = {"PATH": PATH, MARK: str(plan.folder)} | environment
    with plan.log("start").open("ab") as log:
        command = [program, *arguments]
        code = subprocess.run(command, env=bare, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log).returncode
    if code:
        raise ClusterError(f"{program} ended with {code}")
