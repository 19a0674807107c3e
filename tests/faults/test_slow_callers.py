"""Callers that take their time, or send without end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.faults.tools import Traffic, connect, double, read_all, refused, still_serves
from tests.serving.fake_triton import FakeTritonServer, doubled
from tests.serving.processes import Running, gateway, raw, status, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    triton = FakeTritonServer(tiny_a=doubled)
    with gateway(tmp_path_factory.mktemp("gateway"), triton.address) as made:
        yield made
    triton.stop()


def dripping(port: int, source: str, start: bytes, drip: bytes) -> tuple[bytes, float]:
    """Send a start, then a little each half second until the server closes; what it said, and after how long."""
    with connect(port, source) as connection:
        began = time.monotonic()
        connection.sendall(start)
        done = threading.Event()

        def drip_on() -> None:
            with contextlib.suppress(OSError):
                while not done.wait(0.5) and drip:
                    connection.sendall(drip)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(drip_on)
            found = read_all(connection)
            done.set()
        return found, time.monotonic() - began


def test_row_9_slow_heads_slow_bodies_and_silence_end_at_their_deadlines_and_cost_others_nothing(
    running: Running,
) -> None:
    whole = raw(double())
    head, _, body = whole.partition(b"\r\n\r\n")
    senders = {
        "silence": (b"", b""),
        "half a head": (head[:40], b""),
        "a dripping head": (b"POST /Double HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n"),
        "half a body": (head + b"\r\n\r\n" + body[:5], b""),
        "a dripping body": (head.replace(b"Content-Length: ", b"Content-Length: 1") + b"\r\n\r\n", b"x"),
    }
    traffic = Traffic(running)
    slow_bodies = refused(running, "slow_body")
    with ThreadPoolExecutor(len(senders) * 8) as pool:
        futures = {
            what: [pool.submit(dripping, running.config.port, f"127.0.9.{n + 1}", *sent) for n in range(8)]
            for what, sent in senders.items()
        }
        ended = {what: [future.result() for future in each] for what, each in futures.items()}
    assert set(traffic.stop()) == {200}
    for what, each in ended.items():
        answers = {status(reply) for reply, _ in each}
        assert answers == ({408} if what.endswith("body") else {0}), what
    until(lambda: refused(running, "slow_body") == slow_bodies + 16)


def test_fault_28_a_body_of_1_gb_is_cut_off_early_whatever_was_declared(running: Running) -> None:
    """Neither the declared gigabyte nor the one in chunks is read, and memory stays where it was."""
    head = raw(double()._replace(body=b""))
    declared = head.replace(b"Content-Length: 0", b"Content-Length: 1000000000")
    chunked = head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    before = [psutil.Process(pid).memory_info().rss for pid in running.pids()]
    for start, piece in ((declared, b"x" * 65536), (chunked, b"10000\r\n" + b"x" * 65536 + b"\r\n")):
        with connect(running.config.port) as connection:
            connection.sendall(start)
            sent = 0
            with contextlib.suppress(OSError):
                while sent < 1_000_000_000:
                    connection.sendall(piece)
                    sent += len(piece)
            assert sent < 20_000_000  # socket buffers, and no more
    after = [psutil.Process(pid).memory_info().rss for pid in running.pids()]
    assert max(after) - max(before) < 20_000_000
    assert still_serves(running)


def test_fault_28_five_hundred_silent_connections_leave_room_for_others_and_are_all_closed(
    running: Running, tmp_path: Path
) -> None:
    idle = [connect(running.config.port, f"127.0.28.{number % 250 + 1}") for number in range(500)]
    try:
        assert all(still_serves(running) for _ in range(20))
        assert all(read_all(each) == b"" for each in idle)
    finally:
        for each in idle:
            each.close()
    workers = [psutil.Process(pid) for pid in running.pids()]
    until(lambda: sum(worker.num_fds() for worker in workers) < 200)
