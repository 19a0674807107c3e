"""The other end of a connection: a transport in memory, a server that hyper-h2 keeps to the rules, and any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from grpc import StatusCode

from serving.rpc import frames
from serving.rpc.connection import Connection
from serving.rpc.frames import Code
from serving.rpc.stream import RpcFault, Stream

HEAD = [(":status", "200"), ("content-type", "application/grpc")]
WELL = [("grpc-status", "0")]


class Pipe:
    """A transport in memory that keeps what was written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_extra_info(self, name: str) -> Any:
        return self

    def setsockopt(self, *option: int) -> None:
        pass


class Peer:
    """A connection of ours and a server of hyper-h2, which raises on whatever breaks HTTP/2, with no socket between."""

    def __init__(self, *, said: dict[h2.settings.SettingCodes, int] | None = None) -> None:
        self.pipe = Pipe()
        self.client = Connection()
        self.client.connection_made(self.pipe)  # type: ignore[arg-type]
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.server = h2.connection.H2Connection(config)
        self.server.local_settings = h2.settings.Settings(client=False, initial_values=said or {})
        self.server.max_inbound_frame_size = self.server.local_settings.max_frame_size
        self.server.initiate_connection()
        self.events: list[Any] = []
        self.bodies: dict[int, bytearray] = {}
        """What the server read of each stream."""

    def call(self, body: bytes = b"x", *, finishes: bool = True, within_s: float = 60.0) -> Stream:
        """A call that has begun."""
        deadline = asyncio.get_running_loop().time() + within_s
        head = frames.block([(":method", "POST"), (":scheme", "http"), (":path", "/a/b"), (":authority", "a")])
        stream = Stream(head, body, deadline, finishes=finishes)
        self.client.calls.begin(stream)
        return stream

    def up(self, *, credit: bool = True) -> list[Any]:
        """Carry to the server what the client wrote: the events there."""
        data = bytes(self.pipe.written)
        self.pipe.written.clear()
        new = self.server.receive_data(data)
        for event in new:
            if isinstance(event, h2.events.DataReceived):
                self.bodies.setdefault(event.stream_id, bytearray()).extend(event.data)
                if credit and event.flow_controlled_length and event.stream_ended is None:
                    self.server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.events += new
        return list(new)

    def down(self, cuts: Iterable[int] = ()) -> None:
        """Carry to the client what the server wrote, split at these places."""
        data, at = self.server.data_to_send(), 0
        for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
            if cut > at and not self.pipe.closed:
                self.client.data_received(data[at:cut])
                at = cut

    def meet(self) -> Peer:
        """Exchange everything, until both are silent."""
        while self.pipe.written or self.server._data_to_send:
            self.up()
            self.down()
        return self

    def answer(self, number: int, *messages: bytes, trailers: Iterable[tuple[str, str]] = WELL) -> None:
        """A whole response, as far as the windows let it go at once."""
        self.server.send_headers(number, HEAD)
        for message in messages:
            self.server.send_data(number, framed(message))
        self.server.send_headers(number, list(trailers), end_stream=True)

    def said_last(self) -> Code:
        """The code of the GOAWAY that the client has just written."""
        event = next(event for event in self.up() if isinstance(event, h2.events.ConnectionTerminated))
        return Code(int(event.error_code or 0))


def framed(message: bytes, flag: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


def raw_response(number: int, *messages: bytes) -> bytes:
    """The frames of a good response."""
    return b"".join([
        frames.frame(frames.HEADERS, frames.END_HEADERS, number, frames.block(HEAD)),
        *(frames.frame(frames.DATA, 0, number, framed(message)) for message in messages),
        frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, number, frames.block(WELL)),
    ])  # fmt: skip


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """A TCP server that treats each connection as `serve` does; its port."""
    server = await asyncio.start_server(serve, host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def code_of(call: Stream) -> StatusCode:
    """How a call ends, its messages read."""
    async with asyncio.timeout(60):
        try:
            while await call.message() is not None:
                pass
        except RpcFault as fault:
            return fault.code
    return StatusCode.OK


def resets(events: list[object]) -> list[tuple[int, int]]:
    """Streams that were reset, and the codes."""
    return [(e.stream_id, e.error_code) for e in events if isinstance(e, h2.events.StreamReset)]
