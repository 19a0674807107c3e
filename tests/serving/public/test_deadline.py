"""How long a connection may rest, and how one timer watches over request after request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.public.http import Protocol
from serving.public.line import HEAD_DEADLINE_S, KEEP_ALIVE_S
from tests.serving.callers import legacy
from tests.serving.fake_triton import FakeTriton, doubled
from tests.serving.fronts import until
from tests.serving.gateways import Box, write_routes
from tests.serving.processes import raw


class Timer:
    """One call that is to come."""

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at, self.call, self.off = at, call, False

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        self.off = True


class Time:
    """The loop's clock and timers, moved by hand; tasks are the real loop's."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []
        self.set = 0

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + delay, call))
        self.set += 1
        return self.timers[-1]

    def create_task(self, work: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def go_on(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if not timer.off and timer.at <= end]:
            first = min(due, key=Timer.when)
            self.timers.remove(first)
            self.now = max(self.now, first.at)
            first.call()
        self.now = end


class Wire(asyncio.Transport):
    """Takes everything at once."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.replies = 0
        self.closed = False

    def write(self, data: Any) -> None:
        self.replies += 1

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Held:
    """One connection to a gateway."""

    def __init__(self, box: Box) -> None:
        config = uvicorn.Config(box.gateway, lifespan="off", interface="asgi3", proxy_headers=False, log_config=None)
        config.load()
        self.time, self.wire = Time(), Wire()
        self.protocol = Protocol(config, ServerState(), {}, self.time)  # type: ignore[arg-type]
        self.protocol.connection_made(self.wire)

    def hear(self, data: bytes) -> None:
        self.protocol.data_received(data)

    async def ask(self) -> None:
        """One request, and its reply."""
        before = self.wire.replies
        self.hear(raw(legacy("Plain", {"x": [1]})))
        await until(lambda: self.wire.replies > before)


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[Held]:
    write_routes(tmp_path, stable="tiny-a")
    box = Box(tmp_path, FakeTriton(tiny_a=doubled))
    yield Held(box)
    box.close()


async def test_a_connection_that_says_nothing_is_closed_at_the_head_s_deadline(held: Held) -> None:
    held.time.go_on(HEAD_DEADLINE_S - 0.1)
    assert not held.wire.closed
    held.time.go_on(0.2)
    assert held.wire.closed


async def test_a_connection_may_rest_after_each_request_anew_and_no_longer(held: Held) -> None:
    for _ in range(5):
        await held.ask()
        held.time.go_on(KEEP_ALIVE_S - 1)
        assert not held.wire.closed
    held.time.go_on(2)
    assert held.wire.closed


async def test_a_busy_connection_sets_no_timer_for_each_request(held: Held) -> None:
    for _ in range(200):
        await held.ask()
        held.time.go_on(0.1)
    assert held.time.set < 5


async def test_half_a_head_ends_the_rest_and_has_the_head_s_deadline(held: Held) -> None:
    await held.ask()
    held.time.go_on(KEEP_ALIVE_S - 1)
    held.hear(b"POST /Pl")
    held.time.go_on(HEAD_DEADLINE_S - 1)
    assert not held.wire.closed
    held.hear(b"ain HTTP/1.1\r\n")  # further pieces win no time
    held.time.go_on(2)
    assert held.wire.closed


async def test_a_request_that_is_being_answered_is_not_on_the_clock(held: Held) -> None:
    held.hear(raw(legacy("Plain", {"x": [1]})))
    held.time.go_on(10 * KEEP_ALIVE_S)
    assert not held.wire.closed
    await until(lambda: held.wire.replies)
    held.time.go_on(KEEP_ALIVE_S + 1)
    assert held.wire.closed


HEAD = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"


async def test_a_body_that_comes_after_its_refusal_is_no_head_that_is_slow(held: Held) -> None:
    held.hear(HEAD)
    await until(lambda: held.wire.replies)
    held.hear(b"12345")
    held.hear(b"67890")
    held.time.go_on(KEEP_ALIVE_S - 1)
    assert not held.wire.closed
    await held.ask()
    held.time.go_on(KEEP_ALIVE_S + 1)
    assert held.wire.closed


async def test_a_body_that_nobody_waits_for_must_come_in_time_all_the_same(held: Held) -> None:
    held.hear(HEAD)
    await until(lambda: held.wire.replies)
    held.hear(b"1234")
    for _ in range(2):
        held.time.go_on(HEAD_DEADLINE_S / 2 - 1)
        held.hear(b"5")
    assert not held.wire.closed
    held.time.go_on(3)
    assert held.wire.closed


async def test_line_ends_between_requests_win_no_time(held: Held) -> None:
    await held.ask()
    held.hear(b"\r\n")
    held.time.go_on(HEAD_DEADLINE_S + 1)
    assert held.wire.closed


async def test_a_connection_that_is_gone_leaves_no_timer(held: Held) -> None:
    await held.ask()
    held.protocol.connection_lost(None)
    assert all(timer.off for timer in held.time.timers)
