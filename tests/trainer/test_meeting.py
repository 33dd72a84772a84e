"""How light ranks find each other over a port that anybody can reach, agree, and notice that one has gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from trainer.loop import Said
from trainer.meeting import HELLO, _proof, meet
from trainer.place import Place
from trainer.rehearsal.pairs import uniform
from trainer.rehearsal.ranks import Row, StarRanks
from trainer.unusable import Unusable

NONCE = "5ca1ab1e"


def environ(nonce: str = NONCE, **more: str) -> dict[str, str]:
    return {"CLIPCTL_NONCE": nonce, **more}


@pytest.fixture
def port() -> dict[str, str]:
    """The environment's words for a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return environ(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(server.getsockname()[1]))


Arrive = Callable[..., "Future[StarRanks]"]


@pytest.fixture
def arrive() -> Iterator[Arrive]:
    """A rank comes, as a thread; in the end all have left."""
    with ThreadPoolExecutor(8) as pool, ExitStack() as left:

        def one(rank: int, count: int, environ: dict[str, str], patience: float = 60.0) -> StarRanks:
            where = Place(rank, count, 0)
            ranks = StarRanks(where, meet(where, environ, patience))
            left.enter_context(closing(ranks))
            return ranks

        yield lambda *arguments: pool.submit(one, *arguments)


@contextmanager
def connected(environ: dict[str, str], first: bytes) -> Iterator[socket.socket]:
    """Somebody on the same machine, once rank 0 listens."""
    address = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    while True:
        try:
            stranger = socket.create_connection(address, timeout=30)
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    with stranger:
        stranger.sendall(first)
        yield stranger


def was_sent_away(stranger: socket.socket) -> bool:
    try:
        return stranger.recv(1) == b""
    except ConnectionResetError:  # it had said more than was listened to
        return True


def test_ranks_meet_whoever_comes_first_and_hear_each_other_in_order(arrive: Arrive, port: dict[str, str]) -> None:
    others = [arrive(rank, 4, port) for rank in (3, 1, 2)]
    time.sleep(0.3)  # they knock at a door that is not there yet
    ranks = [future.result() for future in (arrive(0, 4, port), *others)]
    said = [threading.Thread(target=each.gather, args=({"rank": each.rank},)) for each in ranks[1:]]
    for thread in said:
        thread.start()
    assert ranks[0].gather({"rank": 0}) == [{"rank": rank} for rank in range(4)]
    for thread in said:
        thread.join()


def test_on_one_machine_a_file_says_where(arrive: Arrive, tmp_path: Path) -> None:
    where = environ(CLIPCTL_RENDEZVOUS=str(tmp_path / "a #file"))
    first, second = arrive(1, 2, where), arrive(0, 2, where)
    assert (first.result().rank, second.result().rank) == (1, 0)


def test_strangers_are_sent_away_and_hold_nobody_up(arrive: Arrive, port: dict[str, str]) -> None:
    zero = arrive(0, 2, port)
    hostile = HELLO.pack(_proof("another nonce", "rank"), 1, 2)
    with (
        connected(port, b"GET / HTTP/1.1\r\n\r\n") as browser,
        connected(port, hostile) as job,
        connected(port, b"") as silent,
    ):
        assert was_sent_away(browser) and was_sent_away(job)
        one = arrive(1, 2, port)
        assert {zero.result().rank, one.result().rank} == {0, 1}
        assert was_sent_away(silent)


def test_the_nonce_itself_is_told_to_nobody() -> None:
    assert NONCE.encode() not in _proof(NONCE, "rank")
    assert _proof(NONCE, "rank") != _proof(NONCE, "rank 0"), "what was heard cannot be sent back"


def test_a_rank_does_not_believe_just_anybody_who_listens(arrive: Arrive, port: dict[str, str]) -> None:
    other = arrive(0, 2, port | {"CLIPCTL_NONCE": "another job"}, 1.0)
    with pytest.raises(TimeoutError, match="rank 0 was not reached"):
        arrive(1, 2, port, 0.5).result()
    with pytest.raises(TimeoutError, match="1 of 2 ranks did not come: 1"):
        other.result()


def test_who_does_not_come_is_named_in_time(arrive: Arrive, port: dict[str, str]) -> None:
    zero, two = arrive(0, 4, port, 0.5), arrive(2, 4, port)
    with pytest.raises(TimeoutError, match="2 of 4 ranks did not come: 1, 3"):
        zero.result()
    with pytest.raises(ConnectionError, match="rank 0 has left"):
        two.result().gather(None)


def test_without_an_address_there_is_no_meeting() -> None:
    with pytest.raises(Unusable, match="nothing says where ranks meet"):
        meet(Place(1, 2, 0), environ())


def test_all_ranks_have_the_same_bits_of_the_mean_gradient_and_decide_alike(
    arrive: Arrive, port: dict[str, str]
) -> None:
    gradients = [uniform((100,), "gradient", rank) for rank in range(3)]
    futures = [arrive(rank, 3, port) for rank in range(3)]
    ranks = [future.result() for future in futures]
    stops, bad = (0, 15, 10), (0, 1, 2)

    def step(rank: int) -> object:
        row = Row((1.0 + rank, True, 0.0, 512.0, 14.0, 0.0), gradients[rank])
        return ranks[rank].agree(row, Said(stops[rank], bad[rank], 16, own_seconds=0.25 * rank, due=rank == 0))

    with ThreadPoolExecutor(3) as pool:
        agreed = list(pool.map(step, range(3)))
    means = {each.gradient.tobytes() for each in agreed}
    assert len(means) == 1
    np.testing.assert_allclose(agreed[0].gradient, np.mean(gradients, axis=0), rtol=1e-6, atol=1e-7)
    measured = [each.read() for each in agreed]
    assert list(measured[0].losses) == [1.0, 2.0, 3.0], "rank 0 writes them down"
    assert list(measured[0].own_seconds) == [0.0, 0.25, 0.5]
    assert {(each.stop, each.bad, each.seen, each.scale, each.logit_scale, each.due) for each in measured} == {
        (15.0, 3.0, 48.0, 512.0, 14.0, 1.0)
    }
    norm = np.linalg.norm(np.mean(gradients, axis=0))
    assert all(each.grad_norm == pytest.approx(norm, rel=1e-6) for each in measured)


@pytest.mark.parametrize(("loss", "finite"), [(np.nan, False), (np.inf, True), (1.0, False)])
@pytest.mark.parametrize("victim", range(3))
def test_one_rank_that_is_not_finite_is_seen_by_all(
    loss: float, finite: bool, victim: int, arrive: Arrive, port: dict[str, str]
) -> None:
    futures = [arrive(rank, 3, port) for rank in range(3)]
    ranks = [future.result() for future in futures]

    def step(rank: int) -> tuple[bool, bool]:
        mine = (loss, finite) if rank == victim else (1.0, True)
        agreed = ranks[rank].agree(Row((*mine, 0.0, 0.0, 14.0, 0.0), np.ones(4, np.float32)), Said(0, 0, 16, 0.0))
        measured = agreed.read()
        return agreed.all_finite(), all(measured.finite) and bool(np.isfinite(measured.losses).all())

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(step, range(3))) == [(False, False)] * 3


def test_when_one_leaves_the_others_hear_of_it_and_leave_too(arrive: Arrive, port: dict[str, str]) -> None:
    futures = [arrive(rank, 3, port) for rank in range(3)]
    ranks = [future.result() for future in futures]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ranks[1].gather, "still here")
        ranks[2].close()
        with pytest.raises(ConnectionError, match="rank 2 has left"):
            ranks[0].gather("still here")
        ranks[0].close()
        with pytest.raises(ConnectionError, match="rank 0 has left"):
            waiting.result()
