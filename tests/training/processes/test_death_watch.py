"""The watch between ranks, in threads: who died, who failed, who said goodbye."""

import queue
import socket
import time

import pytest

from llava_mocle.training.processes.death_watch import DeathWatch

HOST = "127.0.0.1"


def watch(world_size: int) -> tuple[list[DeathWatch], list[queue.Queue]]:
    """Ranks that have all been greeted by rank 0, and what each is told of deaths."""
    news: list[queue.Queue] = [queue.Queue() for _ in range(world_size)]
    ranks = [DeathWatch(rank, world_size, "token", on_death=news[rank].put) for rank in range(world_size)]
    port = ranks[0].listen()
    assert all(rank.connect(HOST, port) for rank in ranks[1:])
    until = time.monotonic() + 60
    while len(ranks[0]._links) < world_size - 1:
        assert time.monotonic() < until
        time.sleep(0.01)
    return ranks, news


def drop(rank: DeathWatch) -> None:
    """What the kernel does to the connection of a process that dies."""
    for link in rank._links:
        link.shutdown(socket.SHUT_RDWR)


def visit(rank_0: DeathWatch, said: bytes = b"nothing of a rank\n") -> None:
    """Somebody else connects, and rank 0 hangs up. It has then dealt with everything that was sent to it before."""
    with socket.create_connection((HOST, rank_0._server.getsockname()[1]), timeout=60) as stranger:
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(1) == b""


def wait_for_followers(ranks: list[DeathWatch]) -> None:
    for rank in ranks:
        if rank.rank != 0:
            rank._thread.join(60)
            assert not rank._thread.is_alive()


def test_a_death_reaches_every_other_rank() -> None:
    ranks, news = watch(4)
    drop(ranks[2])
    for rank in (0, 1, 3):
        assert news[rank].get(timeout=10).startswith(f"rank 2 ({socket.gethostname()}) died without a word")


def test_a_failure_is_told_with_its_reason() -> None:
    ranks, news = watch(3)
    ranks[1].fail("DataError: rows.json: row 3")
    for rank in (0, 2):
        assert news[rank].get(timeout=10) == f"rank 1 ({socket.gethostname()}) failed: DataError: rows.json: row 3"


def test_rank_0_is_watched_by_all() -> None:
    ranks, news = watch(3)
    ranks[0].fail("out of disk")
    for rank in (1, 2):
        assert news[rank].get(timeout=10) == f"rank 0 ({HOST}) failed: out of disk"


@pytest.mark.parametrize("first", [0, 1])
def test_a_rank_that_has_failed_ignores_the_deaths_of_others(first: int) -> None:
    """A report of one would cut the report of its own error short."""
    ranks, news = watch(2)
    ranks[first].fail("DataError: rows.json: row 3")
    assert news[1 - first].get(timeout=10).endswith("failed: DataError: rows.json: row 3")
    drop(ranks[1 - first])
    visit(ranks[0])
    if first == 1:
        wait_for_followers(ranks)
    assert news[first].empty()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_goodbye_is_no_death(order: tuple[int, ...]) -> None:
    ranks, news = watch(3)
    for rank in order:
        ranks[rank].close()
        visit(ranks[0])
    for rank in order:
        drop(ranks[rank])
        visit(ranks[0])
    wait_for_followers(ranks)
    assert all(box.empty() for box in news)


def test_an_unreachable_rank_0_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))  # bound, and never listening
        assert not DeathWatch(1, 2, "token").connect(HOST, taken.getsockname()[1])
    assert "cannot reach" in caplog.text


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n", b'{"rank": 1, "host": "x", "token": "other"}\n', b"[1]\n"]
)
def test_strangers_are_no_ranks(said: bytes) -> None:
    ranks, news = watch(3)
    visit(ranks[0], said)
    assert news[0].empty()
    ranks[1].fail("out of memory")  # the watch goes on, and this is the first that anybody hears
    for rank in (0, 2):
        assert news[rank].get(timeout=10).endswith("failed: out of memory")
