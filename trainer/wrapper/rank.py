"""`train.engine: open_clip`, one rank: runs open_clip_train as a process, and tells of it what the trainer would tell.

Rank 0 follows out.log, writes events and heartbeat, publishes checkpoints and decides when all ends; the other ranks'
wrappers end their processes when it says so. Nobody saves inside an epoch: open_clip_train cannot.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

from trainer import garbage
from trainer.contract import Attempt, ExitCode
from trainer.place import Place, described, place
from trainer.signals import StopRequest
from trainer.unusable import Unusable
from trainer.wrapper.lead import lead
from trainer.wrapper.peers import LOOK_EVERY, Gone, Peer, met, wait
from trainer.wrapper.process import Child, stop_signal
from trainer.wrapper.start import node_of, started


def run(attempt: Attempt, folder: Path, stop: StopRequest) -> int:
    garbage.resume()  # here no step waits for it
    where = place(os.environ)
    print(described(where, os.environ), flush=True)
    return lead(attempt, folder, where, stop) if where.rank == 0 else follow(attempt, folder, where, stop)


def follow(attempt: Attempt, folder: Path, where: Place, stop: StopRequest) -> int:
    """Every rank but 0. Leaves with 0 once that has spoken: a code would have srun kill all others, rank 0 too."""
    try:
        with met(where) as peers:
            peers[0].send(node_of(os.environ))
            word = peers[0].expect()
            if "over" in word:
                return ExitCode.COMPLETED
            with closing(started(attempt, folder, where, word["resume"], word["port"])) as child:
                return _stay(child, peers[0], stop)
    except (Gone, TimeoutError, Unusable) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.CRASHED


def _stay(child: Child, lead: Peer, stop: StopRequest) -> int:
    """Says once what became of it, and waits for rank 0's word, however long. Gone: it left without one."""
    told = False
    while lead.receive() is None:
        status = child.left_with()
        if status == 0:
            lead.send({"done": True})
            return ExitCode.COMPLETED
        asked = stop.signal or stop_signal(status or 0)
        if not told and (asked or status):
            lead.send({"signal": asked} if asked else {"error": child.error(status or 0)})
            told = True
        wait([lead], LOOK_EVERY)
    return ExitCode.COMPLETED
