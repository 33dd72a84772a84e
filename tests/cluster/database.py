"""What slurmdbd stands on: a MariaDB of the cluster's own, reached by a socket alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster import processes
from tests.cluster.settings import ACCOUNT, CLUSTER_NAME, Settings, slurmdbd_conf

PROGRAMS = ("mariadbd", "mariadb-install-db")
SMALL = ("--skip-networking", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M",
         "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin", "--innodb-lock-wait-timeout=900")  # fmt: skip


def start(folder: Path, settings: Settings, until: Callable[[Callable[[], object], str], None]) -> int:
    """The server's pid, once it answers."""
    data, socket = folder / "database", folder / "database.socket"
    data.mkdir(mode=0o700)
    common = ["--no-defaults", f"--datadir={data}", f"--user={settings.user}"]
    install = ["mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"]
    with open(folder / "log" / "database.log", "ab") as log:
        subprocess.run(install, check=True, stdout=log, stderr=log)
    command = ["mariadbd", *common, f"--socket={socket}", f"--pid-file={folder}/run/database.pid", *SMALL]
    pid = processes.start(command, folder, "database.out", {})
    until(socket.exists, "mariadbd")
    if settings.user != "root":
        statement = f"GRANT ALL ON slurm_acct.* TO '{settings.user}'@localhost"
        subprocess.run(["mariadb", "--no-defaults", f"--socket={socket}", "-uroot", "-e", statement], check=True)
    conf = folder / "slurmdbd.conf"
    conf.touch(0o600)
    conf.write_text(slurmdbd_conf(settings))
    return pid


def introduce(run: Callable[..., Any], user: str) -> None:
    """The cluster, an account and the user, without whom nothing is accounted for."""
    for words in (
        ("cluster", CLUSTER_NAME),
        ("account", ACCOUNT, f"cluster={CLUSTER_NAME}"),
        ("user", user, f"account={ACCOUNT}", "adminlevel=Administrator"),
    ):
        done = run("sacctmgr", "--immediate", "add", *words)
        if done.returncode != 0 and "already exist" not in done.stdout + done.stderr:
            raise RuntimeError(f"sacctmgr add {' '.join(words)}: {done.stdout}{done.stderr}")
