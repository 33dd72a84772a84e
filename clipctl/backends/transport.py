"""How a scheduler's commands are run: here, or on another host. A question that hangs, or never ends, is no answer."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

MOST = 32 * 2**20  # bytes of one stream; a queue of 10,000 jobs has a tenth of it
NOT_FOUND = 127  # what env, timeout and a shell leave with where there is no such program


@dataclass(frozen=True, kw_only=True)
class Completed:
    """What a command said. `code` None: it could not be started or did not come to its end, and `problem` says why."""

    code: int | None
    out: str = ""
    err: str = ""
    problem: str = ""

    @property
    def failure(self) -> str:
        """In one line; empty: it left with 0."""
        if self.code == 0:
            return ""
        return self.problem or last_line(self.err) or last_line(self.out) or f"left with code {self.code}"


class Transport(Protocol):
    def run(self, argv: Sequence[str], *, timeout: float, stdin: bytes = b"") -> Completed:
        """Runs one command to its end, or ends it after `timeout` seconds. Never raises for what a command does."""


class Here:
    """On this host. Each command has a session of its own: no Ctrl-C reaches it, and all of it can be killed."""

    def __init__(self, *, most: int = MOST) -> None:
        self._most = most

    def run(self, argv: Sequence[str], *, timeout: float, stdin: bytes = b"") -> Completed:
        with tempfile.TemporaryFile() if stdin else open(os.devnull, "w+b") as given:
            given.write(stdin)  # a file rather than a pipe: nobody has to write while another reads
            given.seek(0)
            try:
                process = subprocess.Popen(
                    argv, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
                )
            except OSError as error:
                return Completed(code=None, problem=f"{argv[0]}: {error.strerror}")
        with process:
            try:
                return self._hear(process, timeout)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def _hear(self, process: subprocess.Popen[bytes], timeout: float) -> Completed:
        deadline = time.monotonic() + timeout
        assert process.stdout and process.stderr
        said = {pipe.fileno(): bytearray() for pipe in (process.stdout, process.stderr)}
        try:
            for pipe, chunk in _chunks(said, deadline):
                said[pipe] += chunk
                if len(said[pipe]) > self._most:
                    return Completed(code=None, problem=f"an answer of more than {self._most} bytes")
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            return Completed(code=None, problem=f"no answer within {timeout:g} s")
        out, err = (text.decode(errors="replace") for text in said.values())
        return Completed(code=code, out=out, err=err)


def _chunks(pipes: Iterable[int], deadline: float) -> Iterator[tuple[int, bytes]]:
    """What comes out of pipes, until all are closed. TimeoutError."""
    with selectors.DefaultSelector() as waiting:
        for pipe in pipes:
            waiting.register(pipe, selectors.EVENT_READ)
        while waiting.get_map():
            ready = waiting.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                if chunk := os.read(key.fd, 2**16):
                    yield key.fd, chunk
                else:
                    waiting.unregister(key.fd)


def with_only(environment: Mapping[str, str]) -> list[str]:
    """What goes before a command, so that it sees this environment and nothing of whoever calls, on any host."""
    return ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]


def last_line(text: str) -> str:
    """Not `splitlines`: that ends lines where no program meant to."""
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")
