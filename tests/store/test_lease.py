"""One host watches a store, and there one process at a time; what died or fell silent is replaced, never doubled."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from clipctl.store import lease
from clipctl.store.lease import Closed, Holder, Lease, Overtaken, Standing, Term, take
from clipctl.store.ticks import folder_of
from trainer import contract

MINUTE = 60.0
RACING = """
import sys, time
from pathlib import Path
from clipctl.store.lease import Lease, take
while time.time() < float(sys.argv[2]):
    pass
held = take(Path(sys.argv[1]))
print(type(held).__name__, flush=True)
sys.stdin.read()
"""


@dataclass
class Uptime:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


def taken(home: Path, uptime: Uptime | None = None, **more: bool | float) -> Lease:
    held = take(home, uptime=uptime or Uptime(), **more)  # type: ignore[arg-type]
    assert isinstance(held, Lease)
    return held


def closed(home: Path, uptime: Uptime | None = None) -> Closed:
    held = take(home, uptime=uptime or Uptime())
    assert isinstance(held, Closed)
    return held


def written(home: Path, number: int, holder: Holder, **more: object) -> Term:
    """A term as another process left it."""
    term = Term(number=number, holder=holder, since=1.0, **more)  # type: ignore[arg-type]
    folder_of(home).mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    contract.write_atomic(folder_of(home) / f"term.{number}", contract.dumps(term))
    return term


def elsewhere() -> Holder:
    return replace(lease.here(), host="login2")


def test_a_term_is_one_process_s_until_it_is_over(home: Path) -> None:
    first = taken(home)
    assert closed(home).standing is Standing.BUSY
    first.end()
    second = taken(home)
    assert (second.term.number, second.broken) == (2, None)
    second.end()
    taken(home).end()
    assert sorted(path.name for path in folder_of(home).iterdir()) == ["term.2", "term.3"], "the last two are kept"


def test_of_many_that_come_at_once_one_gets_in(home: Path) -> None:
    for _ in range(3):
        start = str(time.time() + 1.5)
        command = [sys.executable, "-c", RACING, str(home), start]
        racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
        said = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
        for racer in racers:
            racer.communicate()
        assert sorted(said) == ["Closed"] * 5 + ["Lease"]


def test_the_term_of_a_killed_process_is_broken_at_once(home: Path) -> None:
    command = [sys.executable, "-c", RACING, str(home), "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "Lease\n"
        assert closed(home).term.holder.pid == holder.pid
        holder.kill()
    after = taken(home)
    assert after.broken is not None and after.broken.holder.pid == holder.pid


def test_a_process_that_got_the_pid_of_a_dead_one_holds_nothing(home: Path) -> None:
    written(home, 7, replace(lease.here(), started=1))
    assert taken(home).term.number == 8


def test_a_reboot_ends_what_the_host_was_at(home: Path) -> None:
    written(home, 7, replace(lease.here(), boot="the one before"))
    assert taken(home).broken is not None


def test_a_zombie_holds_nothing() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        holder = replace(lease.here(), pid=child.pid, started=int(stat[19]))
        assert lease.lives(holder)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not lease.lives(holder)


def test_a_process_without_a_beat_for_long_is_stuck_and_not_pushed_aside(home: Path) -> None:
    uptime = Uptime()
    holder = taken(home, uptime)
    uptime.seconds += 15 * MINUTE
    holder.beat()
    uptime.seconds += 15 * MINUTE
    assert closed(home, uptime).standing is Standing.BUSY, "a long tick says that it lives"
    uptime.seconds += 6 * MINUTE
    assert closed(home, uptime).standing is Standing.STUCK


def test_another_host_stands_by_while_the_owner_ticks(home: Path) -> None:
    uptime = Uptime()
    for number in range(1, 20):
        written(home, number, elsewhere(), over=True)
        assert closed(home, uptime).standing is Standing.STANDBY
        uptime.seconds += 10 * MINUTE


@pytest.mark.parametrize("over", [True, False], ids=["between two ticks", "in the middle of one"])
def test_it_takes_over_from_an_owner_that_has_not_moved_for_as_long_as_it_watched(home: Path, over: bool) -> None:
    uptime = Uptime()
    written(home, 3, elsewhere(), over=over, beat_at=-1e9)  # whatever the other host's clock says
    for _ in range(6):
        assert closed(home, uptime).standing is Standing.STANDBY
        uptime.seconds += 5 * MINUTE
    assert taken(home, uptime).term.number == 4


def test_it_waits_for_an_owner_that_ticks_rarely(home: Path) -> None:
    uptime = Uptime()
    written(home, 3, elsewhere(), over=True, every=30 * MINUTE)
    closed(home, uptime)
    uptime.seconds += 89 * MINUTE
    assert closed(home, uptime).standing is Standing.STANDBY
    uptime.seconds += 2 * MINUTE
    assert taken(home, uptime)


def test_what_it_watched_before_its_own_reboot_does_not_count(home: Path) -> None:
    uptime = Uptime()
    written(home, 3, elsewhere(), over=True)
    closed(home, uptime)
    (seen,) = folder_of(home).glob("standby.*")
    seen.write_text(seen.read_text().replace(lease.boot(), "the one before"))
    uptime.seconds += 31 * MINUTE
    assert closed(home, uptime).standing is Standing.STANDBY


def test_a_person_may_order_it_to_take_over(home: Path) -> None:
    written(home, 3, elsewhere(), over=False)
    assert taken(home, take_over=True).term.number == 4


def test_who_was_overtaken_knows_it_before_it_acts(home: Path) -> None:
    uptime = Uptime()
    sleeper = taken(home, uptime)
    sleeper.check()
    written(home, 2, elsewhere())
    uptime.seconds += MINUTE
    with pytest.raises(Overtaken):
        sleeper.check()
    with pytest.raises(Overtaken):
        sleeper.beat()
    sleeper.end()
    assert closed(home, uptime).term.holder.host == "login2", "and takes nothing back by its end"


def test_who_looked_long_ago_does_not_get_in_by_an_old_number(home: Path) -> None:
    old = written(home, 1, lease.here(), over=True)
    written(home, 5, elsewhere())  # and 2 to 4 came and went
    late = lease._begin(folder_of(home), old, None, Uptime())
    assert isinstance(late, Closed) and late.term.number == 5


def test_a_term_that_cannot_be_read_is_waited_for_like_another_host_s(home: Path) -> None:
    uptime = Uptime()
    written(home, 3, lease.here())
    (folder_of(home) / "term.3").write_text("{")
    assert closed(home, uptime).standing is Standing.STANDBY
    uptime.seconds += 31 * MINUTE
    assert taken(home, uptime).term.number == 4
