"""Deadlines on heads and bodies: whoever is silent or slow is cut off, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn

from serving import http
from tests.serving.callers import Request, legacy
from tests.serving.fake_triton import FakeTriton, doubled
from tests.serving.gateways import Box, write_routes
from tests.serving.processes import raw, status


class Front:
    """The gateway behind its own HTTP protocol, in this process, with deadlines of a fraction of a second."""

    def __init__(self, port: int, box: Box) -> None:
        self.port = port
        self.box = box

    async def say(self, *pieces: bytes) -> bytes:
        """Send pieces and read until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)  # a piece a packet
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                await writer.wait_closed()


@pytest.fixture
async def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    monkeypatch.setattr(http, "HEAD_DEADLINE_S", 0.3)
    write_routes(tmp_path, stable="tiny-a")
    box = Box(tmp_path, FakeTriton(tiny_a=doubled), body_deadline_s=0.3)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            box.gateway, http=http.Protocol, ws="none", lifespan="off", interface="asgi3", log_config=None,
            proxy_headers=False, server_header=False, date_header=False,
        )
    )  # fmt: skip
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    for _ in range(1000):
        if server.started:
            break
        await asyncio.sleep(0.01)
    yield Front(listener.getsockname()[1], box)
    server.should_exit = True
    await serving
    box.close()


def closing(request: Request) -> bytes:
    return raw(request, Connection="close")


def good() -> bytes:
    return closing(legacy("Plain", {"x": [1]}))


async def test_a_silent_connection_is_closed(front: Front) -> None:
    assert await front.say() == b""


@pytest.mark.parametrize(
    "pieces", [[b"POST /Pl"], [b"POST /Plain HTTP/1.1\r\n", b"a: b\r\n", b"c: d\r\n"], [b"\r\n\r\n"]]
)
async def test_a_slow_head_is_closed(front: Front, pieces: list[bytes]) -> None:
    assert await front.say(*pieces) == b""


async def test_a_slow_second_head_on_a_kept_connection_is_closed(front: Front) -> None:
    reply = await front.say(raw(legacy("Plain", {"x": [1]})), b"POST /Plain HT")
    assert status(reply) == 200


async def test_a_slow_body_is_408(front: Front) -> None:
    whole = raw(legacy("Plain", {"x": [1]}))
    assert status(await front.say(whole[:-5], whole[-5:-4])) == 408


async def test_a_head_and_body_in_many_pieces_are_answered(front: Front) -> None:
    whole = good()
    size = len(whole) // 12 + 1
    reply = await front.say(*[whole[at : at + size] for at in range(0, len(whole), size)])
    assert status(reply) == 200


async def test_slow_senders_do_not_disturb_others(front: Front) -> None:
    slow = [asyncio.create_task(front.say(b"POST /Plain HTTP/1.1\r\n")) for _ in range(50)]
    assert status(await front.say(good())) == 200
    assert await asyncio.gather(*slow) == [b""] * 50


async def test_pipelined_requests_are_answered_in_order(front: Front) -> None:
    first, second = raw(legacy("Plain", {"x": [1]})), closing(legacy("Plain", {"x": [2]}))
    reply = await front.say(first + second)
    assert reply.count(b"HTTP/1.1 200") == 2
    assert reply.index(b"2.0") < reply.index(b"4.0")


async def test_a_caller_who_hangs_up_in_the_body_is_counted_and_costs_nothing(front: Front) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(raw(legacy("Plain", {"x": [1]}))[:-5])
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.transport.abort()
    for _ in range(200):
        if front.box.count("headframe_requests_total", outcome="hung_up"):
            break
        await asyncio.sleep(0.01)
    assert front.box.count("headframe_requests_total", outcome="hung_up") == 1
    assert status(await front.say(good())) == 200


async def test_what_is_not_http_is_refused_and_counted(front: Front) -> None:
    assert status(await front.say(b"\x16\x03\x01 hello\r\n\r\n")) == 400
    assert front.box.count("headframe_refusals_total", code="bad_http") == 1
