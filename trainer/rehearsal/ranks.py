"""Light ranks: the loop's `Ranks` over plain sockets. A star with rank 0 in its middle, in lock step."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.contract import Phase
from trainer.loop import Measured, Said
from trainer.place import Place

Floats = NDArray[np.float32]

LENGTH = struct.Struct(">I")
CHUNK = 8192  # bytes; what ranks are told in a step is less
LOSS, FINITE, GRAD_NORM, _SCALE, _LOGIT_SCALE, _PATCH_RMS, STOP, BAD, SEEN, OWN_SECONDS, DUE = range(11)  # of a row
ROW = 11


class Star:
    """One message from every rank to rank 0, then one from there to all, in lock step.

    `peers`: of rank 0 the connections to ranks 1, 2, ...; of every other rank the one to rank 0. ConnectionError as
    soon as a rank is gone: whoever notices leaves too, and with rank 0 goes everybody's connection.
    """

    def __init__(self, peers: Sequence[socket.socket]) -> None:
        self._peers = peers

    def collect(self, mine: bytes) -> list[bytes]:
        """Rank 0: everybody's, in the order of ranks. While one is waited for, the others' wait in the kernel."""
        return [mine, *(_receive(peer, rank) for rank, peer in enumerate(self._peers, 1))]

    def spread(self, answer: bytes) -> None:
        for rank, peer in enumerate(self._peers, 1):
            _send(peer, rank, answer)

    def ask(self, mine: bytes) -> bytes:
        """Every other rank: what rank 0 made of it."""
        _send(self._peers[0], 0, mine)
        return _receive(self._peers[0], 0)

    def close(self) -> None:
        for peer in self._peers:
            peer.close()

    def __del__(self) -> None:
        """What an error left open ends with the process: others would hear of it before this rank's last word."""
        for peer in self._peers:
            peer.detach()


def _send(peer: socket.socket, rank: int, message: bytes) -> None:
    try:
        peer.sendall(LENGTH.pack(len(message)) + message)
    except ConnectionError as error:
        raise _lost(rank) from error


def _receive(peer: socket.socket, rank: int) -> bytes:
    """The next message of `rank`. There is never more than one on its way."""
    got = b""
    while len(got) < LENGTH.size or len(got) < LENGTH.size + LENGTH.unpack_from(got)[0]:
        try:
            more = peer.recv(CHUNK)
        except ConnectionError as error:  # it ended with words of ours unread
            raise _lost(rank) from error
        if not more:
            raise _lost(rank)
        got += more
    return got[LENGTH.size :]


def _lost(rank: int) -> ConnectionError:
    return ConnectionError(f"rank {rank} has left")


@dataclass(frozen=True)
class Row:
    """What one rank puts into a step."""

    measured: Sequence[float]  # [STOP] numbers; the gradient's norm is only known when all have met
    gradient: Floats  # [parameters], not scaled


@dataclass(frozen=True)
class Agreed:
    """What all ranks decide by. The gradient has the same bits on all of them: rank 0 did the sums."""

    rows: Floats  # [ranks, ROW] on rank 0, which writes them down; elsewhere one row that says the same of all
    gradient: Floats  # [parameters], the mean of all ranks'

    @property
    def grad_norm(self) -> float:
        return float(self.rows[0, GRAD_NORM])

    def all_finite(self) -> bool:
        return bool(np.isfinite(self.rows[:, : GRAD_NORM + 1]).all() and self.rows[:, FINITE].all())

    def read(self) -> Measured:
        return Measured.of(self.rows.T.tolist())


class StarRanks:
    def __init__(self, where: Place, peers: Sequence[socket.socket]) -> None:
        self.rank, self.count = where.rank, where.count
        self._star = Star(peers)

    def agree(self, row: Row, said: Said) -> Agreed:
        """Row and gradient travel together: a step costs a rank one message there and one back."""
        mine = np.array([*row.measured, *said], np.float32).tobytes() + row.gradient.tobytes()
        if self.rank == 0:
            agreed = _agreed(self._star.collect(mine))
            self._star.spread(_summed_up(agreed.rows).tobytes() + agreed.gradient.tobytes())
            return agreed
        answer = np.frombuffer(self._star.ask(mine), np.float32)
        return Agreed(answer[None, :ROW], answer[ROW:])

    def gather(self, value: Any) -> list[Any]:
        """Of what JSON can say."""
        mine = json.dumps(value).encode()
        if self.rank == 0:
            answer = b"[" + b",".join(self._star.collect(mine)) + b"]"
            self._star.spread(answer)
        else:
            answer = self._star.ask(mine)
        values: list[Any] = json.loads(answer)
        return values

    def enter(self, phase: Phase) -> None:
        """Here they wait for ever: the watchdog ends what hangs."""

    def flight(self) -> bytes:
        return b""

    def close(self) -> None:
        self._star.close()


def _agreed(messages: list[bytes]) -> Agreed:
    """The gradients are summed up in the order of ranks, so that a step that is done again has the same bits."""
    table = np.frombuffer(b"".join(messages), np.float32).reshape(len(messages), -1)
    rows = table[:, :ROW].copy()
    gradient: Floats = table[:, ROW:].sum(axis=0) / np.float32(len(messages))
    rows[:, GRAD_NORM] = np.sqrt(np.square(gradient, dtype=np.float64).sum())
    return Agreed(rows, gradient)


def _summed_up(rows: Floats) -> Floats:
    """[ROW] that leads to the same decisions: to read 384 rows on each of 384 ranks would take longer than the step."""
    loss, bad, seen = (rows[:, column].sum() for column in (LOSS, BAD, SEEN))
    finite, stop, own, due = rows[:, FINITE].min(), *(rows[:, column].max() for column in (STOP, OWN_SECONDS, DUE))
    return np.array([loss / len(rows), finite, *rows[0, GRAD_NORM:STOP], stop, bad, seen, own, due], np.float32)
