"""A child process whose Nth change of a folder fails, whoever makes it: Python, or SQLite inside of it.

The kernel hands those system calls to this process first (seccomp's user notification): it counts, lets them go on, or
answers one of them with an error. Nothing is compiled and nothing is replaced.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipctl.errors import ClipctlError

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.ESTALE)
REFUSED, BUG = 5, 1

# By machine: the number of seccomp itself, then of calls by what they are told: a descriptor, or a path (and where).
_SECCOMP = {"x86_64": 317, "aarch64": 277}[platform.machine()]
_BY_DESCRIPTOR: Sequence[int]
_BY_PATH: dict[int, int]
if platform.machine() == "x86_64":
    _BY_DESCRIPTOR = (1, 18, 20, 74, 75, 77, 296)  # write pwrite64 writev fsync fdatasync ftruncate pwritev
    # rename mkdir link unlink | openat mkdirat unlinkat renameat linkat renameat2
    _BY_PATH = {82: 0, 83: 0, 86: 0, 87: 0, 257: 1, 258: 1, 263: 1, 264: 1, 265: 1, 316: 1}
    _OPEN = 257
else:
    _BY_DESCRIPTOR = (64, 68, 66, 82, 83, 46, 70)
    _BY_PATH = {34: 1, 35: 1, 37: 1, 38: 1, 56: 1, 276: 1}
    _OPEN = 56

_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTICE, _ANSWER = struct.Struct("QIIiIQ6Q"), struct.Struct("QqiI")
_GO_ON = 1
_C = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Ended:
    code: int  # of the child
    hit: bool  # the fault was met: there were that many changes


def with_fault(work: Callable[[], object], folder: Path, *, nth: int, error: int) -> Ended:
    """`work` in a child; its `nth` change of what lies in `folder`, from 1, fails with `error`."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        ours.close()
        _run(work, theirs)
    theirs.close()
    with ours:
        _, (listener, *_), *_ = socket.recv_fds(ours, 1, 1)
        try:
            hit = _answer_all(listener, child, os.fsencode(folder), nth, error)
        finally:
            os.close(listener)
        _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), hit)


def _run(work: Callable[[], object], parent: socket.socket) -> None:
    code = 0
    try:
        listener = _filter()
        socket.send_fds(parent, [b"x"], [listener])
        os.close(listener)
        work()
    except ClipctlError:
        code = REFUSED
    except BaseException:  # noqa: BLE001 - whatever it is, the parent must hear of it
        traceback.print_exc()
        sys.stderr.flush()
        code = BUG
    os._exit(code)


def _filter() -> int:
    """From here on this process asks before it changes anything; the descriptor that answers."""
    numbers = [*_BY_DESCRIPTOR, *_BY_PATH]
    code = [(0x20, 0, 0, 0)]  # load the call's number
    code += [(0x15, len(numbers) - index, 0, number) for index, number in enumerate(numbers)]
    code += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x7FC00000)]  # allow, ask
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), ctypes.addressof(program)))
    _C.prctl(38, 1, 0, 0, 0)  # no new privileges: or only root may do this
    listener = int(_C.syscall(_SECCOMP, 1, 8, header))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


def _answer_all(listener: int, child: int, folder: bytes, nth: int, error: int) -> bool:
    changes = 0
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        ((_, event),) = poll.poll(60_000) or ((0, select.POLLHUP),)
        if not event & select.POLLIN:
            return changes >= nth
        buffer = bytearray(_NOTICE.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, buffer)
        except FileNotFoundError:  # it ended meanwhile
            continue
        identity, pid, _, number, _, _, *arguments = _NOTICE.unpack(buffer)
        changes += (ours := pid == child and _changes(pid, number, arguments, folder))
        fails = ours and changes == nth
        answer = (identity, 0, -error, 0) if fails else (identity, 0, 0, _GO_ON)
        fcntl.ioctl(listener, _SEND, bytearray(_ANSWER.pack(*answer)))


def _changes(pid: int, number: int, arguments: Sequence[int], folder: bytes) -> bool:
    if number in _BY_DESCRIPTOR:
        return os.readlink(f"/proc/{pid}/fd/{arguments[0]}".encode()).startswith(folder)
    if number == _OPEN and not arguments[2] & os.O_CREAT:
        return False
    return _text(pid, arguments[_BY_PATH[number]]).startswith(folder)


def _text(pid: int, address: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        text = memory.read(4096 - address % 4096)
        if b"\0" not in text:
            text += memory.read(4096)
        return text.partition(b"\0")[0]
