"""How ranks find each other: rank 0 listens, all others connect to it.

Where: $CLIPCTL_RENDEZVOUS, a file in which rank 0 writes its port (ranks of one machine), else $MASTER_ADDR and
$MASTER_PORT, as for torch. A port is open to everybody on the network: who cannot tell the attempt's nonce is dropped.
"""

from __future__ import annotations

import hashlib
import os
import selectors
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from trainer.contract import NONCE_VARIABLE
from trainer.place import RENDEZVOUS_VARIABLE, Place
from trainer.unusable import Unusable

PATIENCE = 300.0  # seconds between the first rank's start and the last one's: 384 of them on two cores take a minute
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between two tries
DIGEST_SIZE = 32
HELLO = struct.Struct(f">{DIGEST_SIZE}sII")  # proof, rank, ranks


class Stranger(ConnectionError):
    """Whoever listens there is not this attempt's rank 0."""


def meet(where: Place, environ: Mapping[str, str], patience: float = PATIENCE) -> list[socket.socket]:
    """Connections of rank 0 to ranks 1, 2, ..., of any other rank to rank 0. TimeoutError says who did not come."""
    if where.count == 1:
        return []
    nonce = environ.get(NONCE_VARIABLE, "")
    find = _await_all if where.rank == 0 else _reach
    peers = find(where, environ, nonce, time.monotonic() + patience)
    for peer in peers:
        peer.settimeout(None)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peers


def _proof(nonce: str, speaker: str) -> bytes:
    """Of knowing the nonce, without telling it; another one for each side, so that none can be sent back."""
    return hashlib.blake2b(nonce.encode(), digest_size=DIGEST_SIZE, person=speaker.encode()).digest()


# --- rank 0 -----------------------------------------------------------------------------------------


def _await_all(where: Place, environ: Mapping[str, str], nonce: str, deadline: float) -> list[socket.socket]:
    found: dict[int, socket.socket] = {}
    with _listen(where, environ) as server, selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ, server)
        while len(found) < where.count - 1 and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if key.data is server:
                    peer = server.accept()[0]
                    selector.register(peer, selectors.EVENT_READ, peer)
                else:
                    selector.unregister(key.data)
                    found |= _welcomed(key.data, where, nonce)
        silent = [key.data for key in selector.get_map().values() if key.data is not server]
    absent = [rank for rank in range(1, where.count) if rank not in found]
    for peer in (*silent, *found.values()) if absent else silent:
        peer.close()
    if absent:
        names = ", ".join(map(str, absent[:8])) + (", ..." if len(absent) > 8 else "")
        raise TimeoutError(f"{len(absent)} of {where.count} ranks did not come: {names}")
    return [found[rank] for rank in sorted(found)]


def _listen(where: Place, environ: Mapping[str, str]) -> socket.socket:
    """On all interfaces where a port is given: the name of this host may stand for another one here than elsewhere."""
    path = environ.get(RENDEZVOUS_VARIABLE)
    if not path:
        return socket.create_server(("", _master(environ)[1]), backlog=where.count)
    server = socket.create_server(("127.0.0.1", 0), backlog=where.count)
    temporary = Path(f"{path}.tmp")
    temporary.write_text(str(server.getsockname()[1]))
    os.replace(temporary, path)
    return server


def _welcomed(peer: socket.socket, where: Place, nonce: str) -> dict[int, socket.socket]:
    """The rank that has come; a stranger is sent away. Forty bytes come in one piece, or they are not ours."""
    try:
        proof, rank, count = HELLO.unpack(peer.recv(HELLO.size))
        if proof == _proof(nonce, "rank") and count == where.count and 0 < rank < count:
            peer.sendall(_proof(nonce, "rank 0"))
            return {rank: peer}
    except (OSError, struct.error):
        pass
    peer.close()
    return {}


# --- the others -------------------------------------------------------------------------------------


def _reach(where: Place, environ: Mapping[str, str], nonce: str, deadline: float) -> list[socket.socket]:
    pause = FIRST_PAUSE
    while True:
        try:
            return [_introduced(where, _address(environ), nonce, max(0.1, deadline - time.monotonic()))]
        except OSError as error:  # not there yet, or another job's that is about to leave the port
            if time.monotonic() >= deadline:
                raise TimeoutError(f"rank 0 was not reached: {error}") from error
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _introduced(where: Place, address: tuple[str, int], nonce: str, timeout: float) -> socket.socket:
    peer = socket.create_connection(address, timeout)
    try:
        peer.sendall(HELLO.pack(_proof(nonce, "rank"), where.rank, where.count))
        if peer.recv(DIGEST_SIZE) != _proof(nonce, "rank 0"):
            raise Stranger(f"{address[0]}:{address[1]} belongs to another job")
    except OSError:
        peer.close()
        raise
    return peer


def _address(environ: Mapping[str, str]) -> tuple[str, int]:
    path = environ.get(RENDEZVOUS_VARIABLE)
    return ("127.0.0.1", int(Path(path).read_text())) if path else _master(environ)


def _master(environ: Mapping[str, str]) -> tuple[str, int]:
    host, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT", "")
    if not host or not port.isdigit():
        raise Unusable(f"nothing says where ranks meet: MASTER_ADDR={host} MASTER_PORT={port}")
    return host, int(port)
