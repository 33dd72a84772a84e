"""A cron of the test's own: the real daemon and the real crontab, with a spool that nobody else sees."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SPOOL = "/var/spool/cron/crontabs"
# Nothing of this machine's own cron is run by ours, and none that runs already is in its way.
PRIVATE = f"""
set -e
mount --bind "$1" {SPOOL}
mount -t tmpfs none /etc/cron.d
mount --bind /dev/null /etc/crontab
mount -t tmpfs none /run
echo ready
exec cat
"""


@dataclass(frozen=True)
class Cron:
    pid: int  # of the process that keeps the private mounts

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--mount", *command]

    def run(self, *command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self.inside(*command), input=stdin, capture_output=True, timeout=120)

    def table(self) -> bytes:
        return self.run("crontab", "-l").stdout

    @contextmanager
    def running(self) -> Iterator[None]:
        """cron itself stays in front, so that it can be ended by its own pid; its environment is a daemon's."""
        daemon = subprocess.Popen(self.inside("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "cron", "-f"))
        try:
            yield
        finally:
            daemon.kill()
            daemon.wait()


def missing() -> str:
    """Why there can be no such cron here; empty: there can."""
    programs = [name for name in ("cron", "crontab", "unshare", "nsenter") if shutil.which(name) is None]
    if programs:
        return f"not installed: {', '.join(programs)}; apt install cron util-linux"
    allowed = subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
    return "" if os.getuid() == 0 and allowed else "only root may have mounts of its own"


@contextmanager
def private(folder: Path) -> Iterator[Cron]:
    spool = folder / "spool"
    spool.mkdir()
    shutil.copystat(SPOOL, spool)
    shutil.chown(spool, group=Path(SPOOL).group())
    command = ["unshare", "--mount", "--propagation=private", "sh", "-c", PRIVATE, "sh", str(spool)]
    keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert keeper.stdout is not None and keeper.stdout.readline() == "ready\n"
        yield Cron(keeper.pid)
    finally:
        keeper.communicate()
