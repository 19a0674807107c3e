from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from serving.workers.balance import AWAY, SLACK, Counted, Shares
from tests.serving.fake_triton import FakeTritonServer, doubled
from tests.serving.processes import gateway, until


@pytest.fixture
def shares() -> Iterator[Shares]:
    made = Shares.reserve(3)
    yield made
    os.close(made.fd)


def test_a_worker_is_ahead_of_the_one_with_the_fewest(shares: Shares) -> None:
    shares.put(0, SLACK)
    shares.put(1, 0)
    assert not shares.ahead(0)
    shares.put(0, SLACK + 1)
    assert shares.ahead(0)
    shares.put(1, 100)
    shares.put(0, 125 + SLACK)
    assert not shares.ahead(0)
    shares.put(0, 126 + SLACK)
    assert shares.ahead(0)
    assert not shares.ahead(1)


def test_who_is_away_takes_nothing(shares: Shares) -> None:
    assert shares.taking() == 0
    shares.put(0, 0)
    shares.put(2, 7)
    assert shares.taking() == 2
    shares.put(2, AWAY)
    assert shares.taking() == 1


def test_nobody_is_ahead_of_who_is_away(shares: Shares) -> None:
    shares.put(0, 1000)
    assert not shares.ahead(0)
    shares.put(2, 0)
    assert shares.ahead(0)
    shares.put(2, AWAY)
    assert not shares.ahead(0)


def test_processes_see_each_others_counts(shares: Shares) -> None:
    other = Shares(os.dup(shares.fd))
    held = Counted(other, 1)
    shares.put(0, SLACK + 1)
    assert shares.ahead(0)
    held.add("connection")
    assert not shares.ahead(0)
    held.discard("connection")
    held.discard("connection")
    assert shares.ahead(0)
    held.leave()
    held.add("late")
    assert not shares.ahead(0)
    os.close(other.fd)


@pytest.mark.slow
def test_connections_that_come_at_once_are_spread_over_the_workers(tmp_path: Path) -> None:
    triton = FakeTritonServer(tiny_a=doubled)
    try:
        with gateway(tmp_path, triton.address) as running, ExitStack() as open_ones:
            port = running.config.port

            def held() -> list[int]:
                return [
                    sum(each.status == "ESTABLISHED" for each in psutil.Process(pid).net_connections("tcp")
                        if each.laddr.port == port)
                    for pid in running.pids()
                ]  # fmt: skip

            count = 0

            def come(more: int) -> None:
                nonlocal count
                for _ in range(more):
                    open_ones.enter_context(socket.create_connection(("127.0.0.1", port)))
                count += more
                until(lambda: sum(held()) == count)

            come(64)
            while min(held()) < 8 and count < 256:  # one had no time at all: it catches up with those that follow
                come(1)
            assert min(held()) >= 8
    finally:
        triton.stop()
