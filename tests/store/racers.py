"""Processes that use one store at once, or are killed while they do: `python -m tests.store.racers MODE HOME COUNT`.

They are forked from one process that has imported everything, so that they really meet.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from clipctl.domain import JobState
from clipctl.errors import Refused
from clipctl.store import open_store
from tests.store import stories


def fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except Refused:
        os._exit(5)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def race(work: Callable[[int], None], count: int) -> None:
    """All start when the pipe closes; prints how they ended: 0 got through, 5 was refused."""
    gate, opener = os.pipe()

    def wait_and_work(number: int) -> None:
        os.close(opener)
        os.read(gate, 1)
        work(number)

    children = [fork(lambda number=number: wait_and_work(number)) for number in range(count)]
    os.close(opener)
    print(*sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))


def create(home: Path, number: int) -> None:
    with open_store(home) as store:
        store.create(stories.new_run(home, "digits"), stories.intent(f"create-{number}"))


def intend(home: Path, number: int) -> None:
    with open_store(home) as store:
        store.intend("digits", stories.intent(f"intend-{number}"))


def work_on(home: Path, acknowledged: Path) -> None:
    """Attempt after attempt; what was committed is then said in a file."""
    with open_store(home) as store, acknowledged.open("a") as said:
        while True:
            job = store.newest_job("digits")
            if job.live:
                store.ended(job.identity.nonce, state=JobState.FAILED, basis="next", time=1.0)
                said.write(f"end {job.identity.nonce}\n")
            else:
                identity = store.intend("digits", stories.intent(os.urandom(4).hex()))
                said.write(f"intent {identity.nonce}\n")
            said.flush()


def kill(home: Path, count: int) -> None:
    """Each worker is killed after some commits, at any moment of the next."""
    draw = random.Random(11)
    acknowledged = home / "acknowledged"
    acknowledged.touch()
    for _ in range(count):
        enough = acknowledged.stat().st_size + 10 * draw.randrange(1, 5)
        worker = fork(lambda: work_on(home, acknowledged))
        end = time.monotonic() + 60
        while acknowledged.stat().st_size < enough and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, 0.03))  # any moment will do: that is the point
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


if __name__ == "__main__":
    mode, home, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if mode == "kill":
        kill(home, count)
    else:
        race({"create": lambda n: create(home, n), "intend": lambda n: intend(home, n)}[mode], count)
