"""What a start of open_clip_train needs: a parent that it can go on from, an environment, a place for its log."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from trainer.contract import ATTEMPT_FILE, Attempt, Parent, TrainSpec, loads
from trainer.place import RENDEZVOUS_VARIABLE, Place
from trainer.resume import check_parent, newest_own, parent_of
from trainer.unusable import Unusable
from trainer.verify import read_manifest
from trainer.wrapper.argv import argv
from trainer.wrapper.process import Child

OUT_LOG = "out.log"
OF_THE_FILE = ("wd", "beta1", "beta2", "eps")  # it loads them with the optimizer, whatever its options say


def parent_for(attempt: Attempt, folder: Path, restarted: bool) -> Parent | None:
    """As decided, or the newest of its own where the site has started the same job again. Unusable says why not."""
    parent = (newest_own(folder) if restarted else None) or parent_of(attempt, folder)
    if parent is not None:
        run_folder = folder.parent.parent
        if problem := check_parent(run_folder, parent) or _misfit(attempt.train, run_folder / parent.path):
            raise Unusable(problem)
    return parent


def _misfit(spec: TrainSpec, path: Path) -> str | None:
    """What keeps open_clip_train from going on there as it is told to."""
    manifest = read_manifest(path)
    if manifest is not None and manifest.step_in_epoch:
        epoch = manifest.epochs_done + 1
        return f"{path} lies inside an epoch, where open_clip_train cannot start: clipctl resume --epoch {epoch}"
    try:
        before = loads(Attempt, (path.parent.parent / ATTEMPT_FILE).read_bytes()).train.optim
    except (OSError, ValueError):  # another program's: nobody knows
        return None
    for name in OF_THE_FILE:
        old, new = getattr(before, name), getattr(spec.optim, name)
        if old != new:
            rule = f"open_clip_train goes on with the {old:g} of its parent; train.engine=torch can change it"
            return f"train.optim.{name}={new:g}: {rule}"
    return None


def set_aside(log: Path) -> None:
    """open_clip_train refuses a folder with an out.log. A start before this one, in the same attempt, left it."""
    if log.exists():
        number = next(number for number in range(1, 10_000) if not log.with_name(f"{log.name}.{number}").exists())
        log.rename(log.with_name(f"{log.name}.{number}"))


def free_port() -> int:
    """For torch's store on this host. The one of $MASTER_PORT is where the wrappers met."""
    with socket.create_server(("", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def child_environment(base: Mapping[str, str], where: Place, port: int) -> dict[str, str]:
    """What open_clip_train.distributed looks at first, whatever started the ranks."""
    here = RENDEZVOUS_VARIABLE in base or where.count == 1
    return dict(base) | {
        "RANK": str(where.rank),
        "WORLD_SIZE": str(where.count),
        "LOCAL_RANK": str(where.local_rank),
        "MASTER_ADDR": "127.0.0.1" if here else base["MASTER_ADDR"],
        "MASTER_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
    }


def sees_one_gpu(environ: Mapping[str, str]) -> bool:
    """Where the site gives each rank its own: the local rank is not its number."""
    visible = environ.get("CUDA_VISIBLE_DEVICES", "")
    return bool(visible) and "," not in visible


def node_of(environ: Mapping[str, str]) -> dict[str, str]:
    host = socket.gethostname()
    return {"host": host, "node": environ.get("SLURMD_NODENAME", host)}


def started(attempt: Attempt, folder: Path, where: Place, resume: str | None, port: int) -> Child:
    set_device = where.count == 1 or not sees_one_gpu(os.environ)
    arguments = argv(attempt.train, folder, Path(resume) if resume else None, set_device=set_device)
    return Child(arguments, child_environment(os.environ, where, port))
