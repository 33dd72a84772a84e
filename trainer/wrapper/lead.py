"""Rank 0 of an attempt that open_clip_train computes: tells of it, publishes its checkpoints, decides when it ends."""

from __future__ import annotations

import os
import sys
import time
import traceback
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from trainer import flight
from trainer.checkpoints import Fenced
from trainer.claim import still_mine
from trainer.continuity import left_off
from trainer.contract import NONCE_VARIABLE, Attempt, EventKind, ExitCode, Parent, Phase
from trainer.loop import Outcome
from trainer.place import Place
from trainer.position import Position
from trainer.recorder import FileRecorder
from trainer.schedule import Geometry
from trainer.signals import StopRequest
from trainer.telling import beginning, crashed
from trainer.unusable import Unusable
from trainer.verify import read_manifest
from trainer.wrapper.follower import Follower, Log
from trainer.wrapper.peers import LOOK_EVERY, Gone, Peer, met, wait
from trainer.wrapper.process import stop_signal
from trainer.wrapper.publisher import Publisher
from trainer.wrapper.start import OUT_LOG, free_port, node_of, parent_for, set_aside, started

SETTLE = 2.0  # seconds: a request to stop comes to all ranks, but not at one moment, and what else ends follows from it


def lead(attempt: Attempt, folder: Path, where: Place, stop: StopRequest) -> int:
    recorder = FileRecorder(folder)
    at = Position(Geometry.of(attempt.train, attempt.ranks))
    recorder.beat(Phase.STARTING, at)
    with ExitStack() as stack:
        try:
            if where.count != attempt.ranks:
                raise Unusable(f"{where.count} ranks were started, the attempt is for {attempt.ranks}")
            peers = stack.enter_context(met(where))
            stack.callback(_say_over, peers)  # after the last word, whatever it is
            outcome = Lead(attempt, folder, where, recorder, peers, stop).run()
        except Fenced as error:
            print(f"fenced: {error}", file=sys.stderr)
            recorder.close()
            return ExitCode.FENCED
        except Unusable as error:
            print(f"error: {error}", file=sys.stderr)
            outcome = replace(crashed(recorder.last or at, 0, str(error)), code=ExitCode.REFUSED)
        except Exception as error:  # noqa: BLE001 - the one place: a bug's last word must reach the events
            traceback.print_exc()
            outcome = crashed(recorder.last or at, 0, f"{type(error).__name__}: {error}")
        recorder.event(outcome.kind, outcome.at, **outcome.facts)
        recorder.close()
    return outcome.code


class Lead:
    def __init__(
        self,
        attempt: Attempt,
        folder: Path,
        where: Place,
        recorder: FileRecorder,
        peers: list[Peer],
        stop: StopRequest,
    ) -> None:
        self.folder, self.where, self.recorder, self.peers, self.stop = folder, where, recorder, peers, stop
        restarted = bool(int(os.environ.get("SLURM_RESTART_COUNT") or 0))
        self.attempt = replace(attempt, parent=parent_for(attempt, folder, restarted))
        self.begun = time.monotonic()
        self.moved = (-1, -1)
        self.heard: set[int] = set()  # ranks that have said how they ended
        self.signal = 0
        self.failure: tuple[int, str] | None = None  # the first rank that failed, and its error
        self.crash: tuple[float, Outcome] | None = None  # since when

    def run(self) -> Outcome:
        places = [node_of(os.environ), *(peer.expect() for peer in self.peers)]
        parent, port = self.attempt.parent, free_port()
        resume = str(self.folder.parent.parent / parent.path) if parent else None
        for peer in self.peers:
            peer.send({"resume": resume, "port": port})
        at = _start_of(self.attempt)
        of_ranks = [(place["host"], place["node"]) for place in places]
        self.recorder.event(EventKind.STARTED, at, **beginning(self.attempt, at, of_ranks))
        set_aside(self.folder / OUT_LOG)
        (self.folder / flight.FOLDER).mkdir(exist_ok=True)  # where NCCL's threads in the children write, and make none
        mine = partial(still_mine, self.folder, os.environ.get(NONCE_VARIABLE, ""))
        self.log = Log(self.folder / OUT_LOG)
        with closing(Publisher(self.attempt, self.folder, self.recorder, mine)) as self.publisher:
            self.follower = self.follower_from(at)
            with closing(started(self.attempt, self.folder, self.where, resume, port)) as self.child:
                outcome = self.watch()
            self.publisher.settle()
            return self.last_word(outcome)

    def follower_from(self, at: Position) -> Follower:
        parent, run_folder = self.attempt.parent, self.folder.parent.parent
        foreign = parent is not None and read_manifest(run_folder / parent.path) is None
        before = left_off(run_folder, parent)
        return Follower(self.attempt.train, at, self.recorder, self.publisher.publish, before, foreign)

    def watch(self) -> Outcome:
        while True:
            status = self.child.left_with()  # before the log is read: then that is all of it
            for fact in self.log.facts():
                self.follower.take(fact)
            self.beat()
            self.publisher.look()
            self.hear(status)
            if outcome := self.diverged() or self.stopped() or self.completed(status) or self.crashed(status):
                return outcome
            wait(self.peers, LOOK_EVERY)

    def beat(self) -> None:
        """A sign of life is what moves: the log, or anything that the process says."""
        moved = (self.log.size, self.child.moved)
        if moved != self.moved:
            self.recorder.beat(self.follower.phase, self.follower.at)
            self.moved = moved

    def diverged(self) -> Outcome | None:
        onset, bad = self.follower.onset, self.publisher.not_finite
        if onset is None and bad is None:
            return None
        at, loss, cause = (onset.at, onset.loss, "loss") if onset else (bad, None, "weights")
        assert at is not None
        ranks = list(range(self.where.count))  # the log does not say whose
        facts = {"step_in_epoch": at.step_in_epoch, "loss": loss, "ranks": ranks, "cause": cause}
        return Outcome(ExitCode.DIVERGED, EventKind.DIVERGED, at, facts)

    def hear(self, status: int | None) -> None:
        self.signal = self.signal or self.stop.signal or stop_signal(status or 0)
        for peer in (peer for peer in self.peers if peer.rank not in self.heard):
            try:
                message = peer.receive()
            except Gone as error:
                message = {"error": str(error)}
            if message is not None:
                self.heard.add(peer.rank)
                self.signal = self.signal or message.get("signal", 0)
                if "error" in message and self.failure is None:
                    self.failure = peer.rank, message["error"]

    def stopped(self) -> Outcome | None:
        if not self.signal:
            return None
        return Outcome(ExitCode.STOPPED, EventKind.STOPPED, self.follower.at, {"signal": self.signal})

    def completed(self, status: int | None) -> Outcome | None:
        if status != 0 or not self.follower.completed():
            return None
        seconds = round(time.monotonic() - self.begun, 3)
        return Outcome(ExitCode.COMPLETED, EventKind.COMPLETED, self.follower.at, {"seconds": seconds})

    def crashed(self, status: int | None) -> Outcome | None:
        """The first failure that was heard of, once it is clear that nobody had asked for it."""
        if status is not None and self.failure is None:
            early = "open_clip_train left with code 0 before its last epoch was done"
            self.failure = 0, self.child.error(status) if status else early
        if self.failure is not None and self.crash is None:
            self.crash = time.monotonic(), crashed(self.follower.at, *self.failure)
        return self.crash[1] if self.crash and time.monotonic() >= self.crash[0] + SETTLE else None

    def last_word(self, outcome: Outcome) -> Outcome:
        """With what was still being published when it was over."""
        if outcome.kind == EventKind.COMPLETED and (diverged := self.diverged()):
            return diverged
        if outcome.kind == EventKind.STOPPED:
            return replace(outcome, facts={**outcome.facts, "checkpoint": self.publisher.newest})
        return outcome


def _start_of(attempt: Attempt) -> Position:
    parent = attempt.parent or Parent(path="")
    return Position(Geometry.of(attempt.train, attempt.ranks), parent.epochs_done, 0, parent.samples_seen)


def _say_over(peers: list[Peer]) -> None:
    for peer in peers:
        peer.send({"over": True})
