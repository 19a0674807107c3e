"""What goes out on a connection, and in how many writes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from serving.public.cycle import Cycle


class Transport:
    """Remembers what was written, write by write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(bytes(data))

    def writelines(self, parts: Any) -> None:
        self.writes.append(b"".join(map(bytes, parts)))


def cycle(
    transport: Any, method: str = "POST", *, keep_alive: bool = True, more: Any = (), told: Any = lambda: None
) -> Cycle:
    log = logging.getLogger("test")
    return Cycle(
        scope={"method": method},  # type: ignore[typeddict-item]
        transport=transport, flow=FlowControl(transport), logger=log, access_logger=log, access_log=False,
        default_headers=list(more), message_event=asyncio.Event(), expect_100_continue=False, keep_alive=keep_alive,
        on_response=told,
    )  # fmt: skip


async def answer(made: Cycle, body: Any, *rest: Any, headers: Any = None) -> None:
    if headers is None:
        headers = [(b"content-length", b"%d" % len(body))]
    await made.send({"type": "http.response.start", "status": 200, "headers": headers})
    pieces = [body, *rest]
    for number, piece in enumerate(pieces):
        await made.send({"type": "http.response.body", "body": piece, "more_body": number + 1 < len(pieces)})


@pytest.mark.parametrize("size", [0, 5, 1_000_000])
async def test_head_and_body_go_out_in_one_write(size: int) -> None:
    transport = Transport()
    made = cycle(transport)
    await answer(made, memoryview(b"x" * size))
    assert transport.writes == [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size]
    assert made.response_complete
    assert made.keep_alive


async def test_without_a_length_the_body_is_chunked_and_ends_with_the_empty_chunk() -> None:
    transport = Transport()
    await answer(cycle(transport), b"first", b"", b"second", b"", headers=[])
    assert transport.writes == [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n", b"6\r\nsecond\r\n", b"0\r\n\r\n",
    ]  # fmt: skip


async def test_a_connection_that_ends_says_so_once_in_its_last_reply() -> None:
    close = (b"connection", b"close")
    for keep_alive, headers, more in ((False, [], []), (True, [close], []), (True, [], [close])):
        transport = Transport()
        told = asyncio.Event()
        made = cycle(transport, keep_alive=keep_alive, more=more, told=told.set)
        await answer(made, b"x", headers=[*headers, (b"content-length", b"1")])
        assert b"".join(transport.writes).lower().count(b"connection: close\r\n") == 1
        assert told.is_set()
        assert not made.keep_alive


async def test_a_head_request_gets_no_body() -> None:
    transport = Transport()
    await answer(cycle(transport, "HEAD"), b"12345")
    assert transport.writes == [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"]


async def test_nothing_goes_out_to_a_caller_that_is_gone() -> None:
    transport = Transport()
    made = cycle(transport)
    await made.send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    assert not made.response_started
    made.disconnected = True
    await made.send({"type": "http.response.body", "body": b"x"})
    assert transport.writes == []


async def test_a_body_has_arrived_once_its_end_is_here() -> None:
    made = cycle(Transport())
    made.body += b"ab"
    assert made.arrived() is None
    made.body += b"c"
    made.more_body = False
    assert made.arrived() == b"abc"
    made.disconnected = True
    assert made.arrived() is None
