"""A server found by its address, lost, and found again, on both event loops, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from grpc import StatusCode

from serving.errors import UserError
from serving.rpc import channel as channels
from serving.rpc import frames
from serving.rpc.channel import SEE_OUT, Channel
from serving.rpc.connection import GONE_S
from serving.rpc.cutting import Cutter
from serving.rpc.stream import RpcFault
from tests.ports import free_port
from tests.serving.rpc.peers import HEAD, Serve, listening, raw_response

Scenario = Coroutine[Any, Any, None]
both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is there may take a connection as late as this machine lets it."""
    monkeypatch.setattr(channels, "CONNECT_S", 60.0)


class Server:
    """Answers each request with `answer`, of its stream's number; counts connections and requests."""

    def __init__(self, answer: Callable[[int], bytes] = lambda number: raw_response(number, b"pong")) -> None:
        self.answer = answer
        self.connections = 0
        self.seen: list[list[int]] = []
        """Kinds of the frames that came, by connection."""
        self.came: asyncio.Queue[int] = asyncio.Queue()
        """The same, as they come."""
        self.writers: list[asyncio.StreamWriter] = []

    async def sees(self, kind: int, times: int = 1) -> None:
        """Wait until so many frames of a kind have come."""
        for _ in range(times):
            while await self.came.get() != kind:
                pass

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        kinds: list[int] = []
        self.seen.append(kinds)
        writer.write(frames.settings({}))
        writer.write(frames.frame(frames.WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big")))
        try:
            await reader.readexactly(len(frames.PREFACE))
            cutter = Cutter(frames.HEAD, frames.length_of)
            while data := await reader.read(2**16):
                for whole in cutter.feed(data):
                    kind, flags, number, _ = frames.parts(whole)
                    kinds.append(kind)
                    self.came.put_nowait(kind)
                    if kind == frames.DATA and flags & frames.END_STREAM:
                        writer.write(self.answer(number))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def open_to(serve: Serve, *, name: str = "127.0.0.1", host: str = "127.0.0.1") -> AsyncIterator[Channel]:
    async with listening(serve, host) as port:
        channel = Channel(f"{name}:{port}")
        try:
            yield channel
        finally:
            await channel.close()


async def ping(channel: Channel, within_s: float = 60.0) -> bytes:
    return bytes(await channel.unary("/a/b", b"ping", within_s))


async def code(call: Coroutine[Any, Any, object]) -> StatusCode:
    try:
        await call
    except RpcFault as fault:
        return fault.code
    return StatusCode.OK


@pytest.mark.parametrize("address", ["", "host", "host:", ":80", "[]:80", "::1:80", "host:http", "host:-1", "a:b:80"])
def test_what_is_no_address_is_refused_in_one_line(address: str) -> None:
    with pytest.raises(UserError) as error:
        Channel(address)
    assert "\n" not in str(error.value)
    assert "host:port" in str(error.value)


@both_loops
@pytest.mark.parametrize(("name", "host"), [("localhost", "127.0.0.1"), ("[::1]", "::1"), ("127.0.0.1", "127.0.0.1")])
def test_a_server_is_found_by_name_and_by_number(run: Callable[[Scenario], None], name: str, host: str) -> None:
    async def scenario() -> None:
        async with open_to(Server(), name=name, host=host) as channel:
            assert await ping(channel) == b"pong"

    run(scenario())


@both_loops
def test_all_calls_share_one_connection(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        server = Server()
        async with open_to(server) as channel:
            assert await asyncio.gather(*(ping(channel) for _ in range(50))) == [b"pong"] * 50
            assert await ping(channel) == b"pong"
        assert server.connections == 1
        assert frames.RST_STREAM not in server.seen[0]

    run(scenario())


@both_loops
def test_a_server_that_is_away_is_told_at_once_and_found_when_it_comes(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        port = free_port()
        channel = Channel(f"127.0.0.1:{port}")
        for _ in range(3):
            assert await code(ping(channel)) is StatusCode.UNAVAILABLE
        async with listening(Server(), port=port):
            assert await ping(channel) == b"pong"
        await channel.close()

    run(scenario())


@both_loops
def test_a_connection_that_is_lost_ends_its_calls_and_is_made_anew(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        server = Server(answer=lambda number: b"")
        async with open_to(server) as channel:
            calls = [asyncio.ensure_future(code(ping(channel))) for _ in range(3)]
            await server.sees(frames.DATA, 3)
            server.writers[0].transport.abort()
            assert await asyncio.gather(*calls) == [StatusCode.UNAVAILABLE] * 3
            server.answer = lambda number: raw_response(number, b"pong")
            assert await ping(channel) == b"pong"
        assert server.connections == 2

    run(scenario())


def farewell(last: int) -> bytes:
    return frames.frame(frames.GOAWAY, 0, 0, last.to_bytes(4, "big") + bytes(4))


@both_loops
def test_after_a_farewell_calls_go_over_a_new_connection(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        server = Server(answer=lambda number: farewell(number) + raw_response(number, b"pong"))
        async with open_to(server) as channel:
            for _ in range(3):
                assert await ping(channel) == b"pong"
            server.answer = lambda number: farewell(number - 2)
            assert await code(ping(channel)) is StatusCode.UNAVAILABLE
        assert server.connections == 4
        assert not channel._open

    run(scenario())


@both_loops
def test_when_numbers_run_out_calls_go_over_a_new_connection(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        server = Server()
        async with open_to(server) as channel:
            assert await ping(channel) == b"pong"
            assert channel._connection is not None
            channel._connection.calls.next_id = 2**31 - 3
            assert [await ping(channel) for _ in range(3)] == [b"pong"] * 3
        assert server.connections == 2

    run(scenario())


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)
    writer.close()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def speaks_http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await reader.read(-1)
    writer.close()


@both_loops
@pytest.mark.parametrize("serve", [silent, hangs_up, speaks_http1])
def test_a_port_behind_which_there_is_no_such_server_is_a_server_away(
    run: Callable[[Scenario], None], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "CONNECT_S", 0.05 if serve is silent else 60.0)

    async def scenario() -> None:
        async with open_to(serve) as channel:
            assert await code(ping(channel)) is StatusCode.UNAVAILABLE

    run(scenario())


@both_loops
def test_the_time_given_bounds_the_wait_for_a_connection(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with open_to(silent) as channel:
            calls = code(ping(channel, 0.01)), code(ping(channel, 60.0))
            late, closed = (asyncio.ensure_future(call) for call in calls)
            assert await late is StatusCode.DEADLINE_EXCEEDED
            await channel.close()
            assert await closed is StatusCode.UNAVAILABLE
            assert await code(ping(channel)) is StatusCode.UNAVAILABLE  # and no connection is made any more

    run(scenario())


@both_loops
def test_a_channel_can_be_closed_before_an_attempt_to_connect_has_begun(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with open_to(Server()) as channel:
            call = asyncio.ensure_future(code(ping(channel)))
            await asyncio.sleep(0)
            assert channel._connecting is not None
            await channel.close()
            assert await call is StatusCode.UNAVAILABLE

    run(scenario())


@both_loops
def test_a_server_that_says_no_more_is_gone_whatever_still_waits_to_be_sent_to_it(
    run: Callable[[Scenario], None],
) -> None:
    over = asyncio.Event()

    async def half_closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 2**30}))
        writer.write(frames.frame(frames.WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big")))
        await reader.readexactly(2**16)  # and of the rest no more than fits into buffers
        writer.write_eof()
        await over.wait()
        writer.transport.abort()

    async def scenario() -> None:
        async with open_to(half_closes) as channel:
            try:
                assert await code(channel.unary("/a/b", bytes(2**25), 60.0)) is StatusCode.UNAVAILABLE
            finally:
                over.set()

    run(scenario())


@both_loops
def test_one_caller_that_leaves_takes_the_connection_from_nobody(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        server = Server()
        async with open_to(server) as channel:
            leaves, stays = (asyncio.ensure_future(ping(channel)) for _ in range(2))
            await asyncio.sleep(0)
            leaves.cancel()
            assert await stays == b"pong"
            assert leaves.cancelled()
        assert server.connections == 1

    run(scenario())


@both_loops
@pytest.mark.parametrize(
    "ends", ["answer", pytest.param("deadline", marks=pytest.mark.slow), "second cancel", "lost connection"]
)
def test_a_caller_that_sees_its_call_out_ends_when_the_server_is_done_or_its_time_is_over(
    run: Callable[[Scenario], None], ends: str
) -> None:
    async def scenario() -> None:
        server = Server(answer=lambda number: b"")
        async with open_to(server) as channel:
            timeout_s = 4.0 if ends == "deadline" else 60.0  # it must be under way before
            call = asyncio.ensure_future(channel.unary("/a/b", b"ping", timeout_s))
            await server.sees(frames.DATA)
            call.cancel(SEE_OUT)
            if ends != "deadline":
                for _ in range(10):
                    await asyncio.sleep(0)
                assert not call.done()
            if ends == "answer":
                server.writers[0].write(raw_response(1, b"late"))
            elif ends == "second cancel":
                call.cancel()
            elif ends == "lost connection":
                server.writers[0].transport.abort()
            await asyncio.wait([call])
            assert call.cancelled()
        assert frames.RST_STREAM not in server.seen[0]

    run(scenario())


@both_loops
def test_a_call_that_has_not_begun_is_not_seen_out(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        server = Server(answer=lambda number: b"")
        async with open_to(server) as channel:
            call = asyncio.ensure_future(ping(channel))
            await asyncio.sleep(0)
            call.cancel(SEE_OUT)
            await asyncio.wait([call])
            assert call.cancelled()

    run(scenario())


@both_loops
def test_closing_ends_the_calls_and_lets_the_server_finish_what_it_has(
    run: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "FINISH_S", 60.0)

    async def scenario() -> None:
        server = Server(answer=lambda number: b"")
        async with open_to(server) as channel:
            call = asyncio.ensure_future(code(ping(channel)))
            await server.sees(frames.DATA)
            closing = asyncio.ensure_future(channel.close())
            assert await call is StatusCode.UNAVAILABLE
            assert not closing.done()
            server.writers[0].write(raw_response(1, b"late"))
            await closing
        assert frames.RST_STREAM not in server.seen[0]

    run(scenario())


@both_loops
def test_closing_waits_for_no_server_that_hangs(
    run: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "FINISH_S", 0.01)

    async def scenario() -> None:
        server = Server(answer=lambda number: b"")
        async with open_to(server) as channel:
            call = asyncio.ensure_future(code(ping(channel)))
            await server.sees(frames.DATA)
            await channel.close()
            assert await call is StatusCode.UNAVAILABLE

    run(scenario())


@pytest.mark.parametrize("messages", [(), (b"a", b"b")])
async def test_a_unary_call_has_exactly_one_response(messages: tuple[bytes, ...]) -> None:
    async with open_to(Server(answer=lambda number: raw_response(number, *messages))) as channel:
        assert await code(ping(channel)) is StatusCode.INTERNAL
        replies = [bytes(reply) async for reply in channel.replies("/a/b", b"ping", 60.0)]
        assert replies == list(messages)


@both_loops
def test_replies_that_nobody_reads_on_are_cancelled(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, frames.block(HEAD))
        server = Server(answer=lambda number: head + frames.frame(frames.DATA, 0, number, b"\0\0\0\0\1a"))
        async with open_to(server) as channel:
            replies = channel.replies("/a/b", b"ping", 60.0)
            assert bytes(await anext(replies)) == b"a"
            await replies.aclose()
            await server.sees(frames.RST_STREAM)

    run(scenario())


@both_loops
def test_the_kernel_is_asked_to_notice_a_host_that_is_gone(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with open_to(Server()) as channel:
            await ping(channel)
            assert channel._connection is not None
            assert channel._connection._transport is not None
            sock = channel._connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * GONE_S
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < GONE_S
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    run(scenario())


@pytest.mark.slow
@both_loops
def test_ten_thousand_callers_that_leave_leave_nothing(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        server = Server()
        async with open_to(server) as channel:
            await ping(channel)
            counts = []
            for _ in range(5):
                for number in range(2000):
                    call = asyncio.ensure_future(ping(channel))
                    for _ in range(number % 4):
                        await asyncio.sleep(0)
                    call.cancel()
                    await asyncio.wait([call])
                await ping(channel)  # is answered after all the others
                gc.collect()
                assert channel._connection is not None
                assert channel._connection.calls.running == {}
                counts.append(len(gc.get_objects()))
            assert counts[-1] - counts[1] < 500
        assert server.connections == 1

    run(scenario())
