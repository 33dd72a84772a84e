"""What the ranks' wrappers tell each other: JSON lines between rank 0, which decides, and every other.

to rank 0    {"host": .., "node": ..} once; {"error": ..}, {"signal": ..} or {"done": true} once
from there   {"resume": path or null, "port": ..} once; {"over": true} after its last word is on disk
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from trainer.meeting import meet
from trainer.place import Place

Message = Mapping[str, Any]
CHUNK = 65536  # bytes
LOOK_EVERY = 0.5  # seconds, at what does not speak up by itself: processes, signals, the log


class Gone(ConnectionError):
    """The other wrapper is gone, or its host is."""


class Peer:
    """One connection to another rank's wrapper."""

    def __init__(self, rank: int, connection: socket.socket) -> None:
        self.rank = rank
        self._connection = connection
        self._got = b""
        self.gone = False

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, message: Message) -> None:
        with suppress(OSError):  # gone: the next `receive` says so
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Message | None:
        """The next message; None as long as there is no whole one. Gone after the last. Does not wait."""
        while b"\n" not in self._got:
            if self.gone:
                raise Gone(f"rank {self.rank} has left")
            if not self._read():
                return None
        line, _, self._got = self._got.partition(b"\n")
        message: Message = json.loads(line)
        return message

    def _read(self) -> bool:
        """Whether there was something to read, the end included."""
        try:
            more = self._connection.recv(CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionError:
            more = b""
        self._got += more
        self.gone = not more
        return True

    def expect(self) -> Message:
        """The next message, waited for."""
        while (message := self.receive()) is None:
            wait([self], None)
        return message

    def close(self) -> None:
        self._connection.close()


def connected(rank: int, connections: Sequence[socket.socket]) -> list[Peer]:
    """As `trainer.meeting.meet` returns them."""
    first = 1 if rank == 0 else 0
    return [Peer(other, connection) for other, connection in enumerate(connections, first)]


def wait(peers: Sequence[Peer], seconds: float | None) -> None:
    """Until one of them says something, but no longer. By poll: select cannot count to a thousand ranks."""
    poll = select.poll()
    for peer in peers:
        if not peer.gone:
            poll.register(peer, select.POLLIN)
    poll.poll(None if seconds is None else seconds * 1000)


@contextmanager
def met(where: Place) -> Iterator[list[Peer]]:
    """All wrappers, once they have found each other."""
    peers = connected(where.rank, meet(where, os.environ))
    try:
        yield peers
    finally:
        for peer in peers:
            peer.close()
