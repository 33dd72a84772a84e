"""A person's wish for a checkpoint at the next step: written down, then put where the job looks. It trains on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipctl.domain import RunState
from clipctl.errors import Refused, Unavailable
from clipctl.journal import Files, LocalFiles
from clipctl.layout import RunFolder
from clipctl.ops.clock import Clock
from clipctl.store.ledger import EntryKind
from trainer.contract import Engine, SaveNow, dumps

if TYPE_CHECKING:
    from clipctl.store.writer import Store

_LOCAL = LocalFiles()


def save_now(run: str, *, actor: str, store: Store, clock: Clock, files: Files = _LOCAL) -> int:
    """The request's number in its attempt. The run was observed right before. Refused: no job of it trains."""
    record, job = store.run(run), store.newest_job(run)
    if record.state is not RunState.RUNNING:
        raise Refused(f"run '{run}' is {record.state}: no job of it can save now", hint=f"clipctl status {run}")
    attempt = job.identity.attempt
    if store.history(run).attempts[-1].train.get("engine") == Engine.OPEN_CLIP:
        hint = f"clipctl checkpoints {run}"
        raise Refused(f"run '{run}': open_clip_train saves at the end of an epoch, not when it is asked", hint=hint)
    earlier = [item for item in store.decisions(run) if (item.kind, item.attempt) == (EntryKind.SAVE, attempt)]
    request = SaveNow(number=len(earlier) + 1, actor=actor, time=clock.now())
    basis = "asked for by a person"
    store.save(job.identity.nonce, request.number, actor=actor, basis=basis, time=request.time)
    path = RunFolder(record.folder).attempt(attempt).save_now
    try:
        files.write_atomic(path, dumps(request))
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}; the job does not hear of it", f"ls -ld {path.parent}") from error
    return request.number
