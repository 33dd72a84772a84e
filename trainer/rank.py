"""Puts one rank of an attempt together, runs its loop, and sees to it that the last word is on disk."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from trainer.checkpoints import CheckpointKeeper, Contributor, Fenced, NoKeeper
from trainer.continuity import left_off
from trainer.contract import NONCE_VARIABLE, Attempt, EventKind, ExitCode, Parallel, Parent, Phase, dumps, loads
from trainer.engines import EngineModule, engine_module
from trainer.faults import Faults
from trainer.flight import recorded
from trainer.garbage import set_aside
from trainer.loop import Keeper, Loop, Outcome, Parts, Source
from trainer.place import Place, described, place
from trainer.position import Position
from trainer.recorder import FileRecorder, Recorder, Silent
from trainer.resume import Start, check_parent, load_start, newest_own, parent_of
from trainer.save_now import SaveRequests
from trainer.schedule import Geometry
from trainer.signals import StopRequest
from trainer.stacks import Stacks
from trainer.telling import beginning, crashed
from trainer.unusable import Unusable

SETTLE = 1.0  # seconds for the rank that has left, whose code is to be the first: the others only follow


def run(attempt: Attempt, folder: Path, stop: StopRequest) -> int:
    where = place(os.environ)
    print(described(where, os.environ), flush=True)
    engine = engine_module(attempt.train.engine)
    recorder: Recorder = FileRecorder(folder, engine.open_charts) if where.rank == 0 else Silent()
    start, settle = Position(Geometry.of(attempt.train, attempt.ranks)), 0.0
    try:
        outcome = Rank(attempt, folder, where, engine, recorder, stop).run()
        # Ranks that leave early with a code would have rank 0 killed while it writes its last word.
        code = outcome.code if where.rank == 0 else ExitCode.COMPLETED
    except Fenced as error:
        print(f"fenced: {error}", file=sys.stderr)
        recorder.close()
        return ExitCode.FENCED
    except Unusable as error:
        print(f"error: {error}", file=sys.stderr)
        code, outcome = ExitCode.REFUSED, crashed(recorder.last or start, where.rank, str(error))
    except Exception as error:  # noqa: BLE001 - the one place: a bug's last word must reach the events
        traceback.print_exc()
        code, settle = ExitCode.CRASHED, SETTLE if isinstance(error, ConnectionError) else 0.0
        outcome = crashed(recorder.last or start, where.rank, f"{type(error).__name__}: {error}")
    recorder.event(outcome.kind, outcome.at, **outcome.facts)
    recorder.close()
    time.sleep(settle)
    return code


class Rank:
    def __init__(
        self, attempt: Attempt, folder: Path, where: Place, engine: EngineModule, recorder: Recorder, stop: StopRequest
    ) -> None:
        self.attempt, self.folder, self.spec = attempt, folder, attempt.train
        self.engine, self.recorder, self.stop = engine, recorder, stop
        recorder.beat(Phase.STARTING, Position(Geometry.of(attempt.train, attempt.ranks)))
        if where.count != attempt.ranks:
            raise Unusable(f"{where.count} ranks were started, the attempt is for {attempt.ranks}")
        self.equipment = engine.equip(self.spec, where)
        self.ranks = self.equipment.ranks

    def run(self) -> Outcome:
        start = self.load_start()
        with set_aside(), closing(self.equipment.source(start.position)) as source:
            notices = start.notices + self.equipment.load(start.state)
            self.record_start(start.position, notices)
            return self.train(start.position, source)

    def train(self, at: Position, source: Source) -> Outcome:
        requests, stacks = SaveRequests(self.folder), Stacks(self.folder, self.ranks.rank)
        with closing(requests), closing(self.keeper(requests)) as keeper, closing(stacks):
            with recorded(self.ranks, self.folder):
                outcome = Loop(self.parts(source, keeper, stacks)).run(at)
            # Not after an error: who heard of it before this rank's last word would leave first, and get it killed.
            self.ranks.close()
        return outcome

    def load_start(self) -> Start:
        """Rank 0 chooses what to start from and checks its every byte; all hear of it before any rank reads."""
        run_folder = self.folder.parent.parent
        parent, problem = None, None
        if self.ranks.rank == 0:
            parent = parent_of(self.attempt, self.folder)
            if int(os.environ.get("SLURM_RESTART_COUNT") or 0):  # the site started this very job again
                parent = newest_own(self.folder) or parent
            problem = check_parent(run_folder, parent) if parent else None
        chosen, problem = self.ranks.gather([dumps(parent) if parent else None, problem])[0]
        if problem:
            raise Unusable(problem)
        self.attempt = replace(self.attempt, parent=loads(Parent, chosen) if chosen else None)
        return load_start(run_folder, self.attempt, self.engine.read)

    def parts(self, source: Source, keeper: Keeper, stacks: Stacks) -> Parts:
        return Parts(
            spec=self.spec,
            trainee=self.equipment.trainee,
            ranks=self.ranks,
            source=source,
            keeper=keeper,
            recorder=self.recorder,
            stop=self.stop,
            faults=Faults(self.spec.faults, self.ranks.rank, self.folder.parent.parent / "faults"),
            stacks=stacks,
            left_off=self.left_off(),
            evaluate=self.equipment.evaluate,
        )

    def left_off(self) -> Mapping[str, float]:
        return left_off(self.folder.parent.parent, self.attempt.parent) if self.ranks.rank == 0 else {}

    def keeper(self, requests: SaveRequests) -> CheckpointKeeper | NoKeeper:
        trainee = self.equipment.trainee
        if self.ranks.rank != 0:
            return Contributor(self.spec.save, trainee) if self.spec.parallel is Parallel.FSDP else NoKeeper()
        requests.watch()
        from trainer.claim import still_mine  # here and below: what rank 0 alone needs, the others do not wait for

        mine = partial(still_mine, self.folder, os.environ.get(NONCE_VARIABLE, ""))
        return CheckpointKeeper(
            self.attempt, self.folder, trainee, self.recorder, mine, self.engine.write, lambda: requests.newest
        )

    def record_start(self, at: Position, notices: tuple[str, ...]) -> None:
        host = socket.gethostname()
        places = self.ranks.gather([host, os.environ.get("SLURMD_NODENAME", host)])
        if self.ranks.rank != 0:
            return
        facts = beginning(self.attempt, at, [(host, node) for host, node in places])
        facts["versions"] |= self.equipment.versions
        self.recorder.event(EventKind.STARTED, at, **facts, device=self.equipment.device)
        for text in notices:
            self.recorder.event(EventKind.NOTICE, at, text=text)
