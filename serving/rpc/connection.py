"""One HTTP/2 connection to a gRPC server: the socket, and what the server's frames mean.

Whatever breaks the protocol ends the connection, and every call on it is then one that never came to a server.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from grpc import StatusCode

from serving.rpc import frames as h2
from serving.rpc.calls import FIRST_WINDOW, Calls
from serving.rpc.cutting import Cutter
from serving.rpc.frames import Broken, Code, Setting, require
from serving.rpc.stream import MAX_MESSAGE, WINDOW, RpcFault, Stream

GONE_S = 10
"""A host that acknowledges nothing for so long is gone, and the connection with it."""
UNREAD = 4 * MAX_MESSAGE
"""Bytes that a server may leave in our buffer before it counts as gone."""
_OPENING = h2.PREFACE + h2.settings({
    Setting.HEADER_TABLE_SIZE: 0, Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: WINDOW,
    Setting.MAX_FRAME_SIZE: h2.LARGEST_FRAME, Setting.MAX_HEADER_LIST_SIZE: h2.LARGEST_BLOCK,
})  # fmt: skip


class Connection(asyncio.Protocol):
    """The client's side; `ready` once the server has said its settings."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.calls = Calls(self._send, self._close)
        self._transport: asyncio.Transport | None = None
        self._cutter = Cutter(h2.HEAD, h2.length_of)
        self._room = FIRST_WINDOW
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags and beginning of an unfinished one

    def read(self, stream: Stream) -> None:
        """Let the server send on after the caller has read."""
        if stream.credit >= MAX_MESSAGE and stream.id in self.calls.running:
            self._send(_update(stream.id, stream.credit))
            stream.room += stream.credit
            stream.credit = 0

    def abort(self, why: str = "the connection was closed") -> None:
        """Close at once; every call ends."""
        if self._transport is not None:
            self._transport.abort()
        self.calls.fail(why)

    # the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send preface and settings; have the kernel notice a host that is gone."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        transport.set_write_buffer_limits(high=UNREAD)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, GONE_S // 2)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, GONE_S // 2)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_S * 1000)
        self._send(_OPENING)
        self._give_room()

    def pause_writing(self) -> None:
        """Windows bound what waits to be written, so a buffer that grows is of a server that reads nothing."""
        self.abort("the server reads nothing")

    def eof_received(self) -> None:
        """A server that says no more answers nothing; the socket would wait until it had taken what was written."""
        self.abort("the server hung up")

    def connection_lost(self, exc: Exception | None) -> None:
        """Every call ends; one that is made anew may reach a server."""
        self.calls.fail(f"the connection was lost{f' ({type(exc).__name__})' if exc else ''}")
        if not self.ready.done():
            self.ready.set_exception(RpcFault(StatusCode.UNAVAILABLE, "the server hung up before its settings"))
            self.ready.exception()  # whoever waited may be gone
        self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take frames, in order; a broken one ends the connection."""
        try:
            for whole in self._cutter.feed(data):
                if self._transport is None or self._transport.is_closing():
                    return
                self._take(*h2.parts(whole))
        except Broken as broken:
            self._send(h2.frame(h2.GOAWAY, 0, 0, bytes(4) + broken.code.to_bytes(4, "big")))
            self.abort(f"the server broke the protocol: {broken}")

    def _send(self, data: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # frames

    def _take(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        if not self.ready.done():
            require(kind == h2.SETTINGS and not flags & h2.ACK, "a connection that does not begin with settings")
        if self._block is not None:
            require(kind == h2.CONTINUATION and number == self._block[0], "a header block that breaks off")
        take = _TAKES.get(kind)
        if take is not None:
            take(self, flags, number, payload)

    def _on_data(self, flags: int, number: int, payload: memoryview) -> None:
        size = len(payload)
        self._room -= size
        require(self._room >= 0, "more data than the connection's window", Code.FLOW_CONTROL_ERROR)
        self._give_room()
        stream = self.calls.find(number)
        data = h2.unpadded(flags, payload)
        if stream is None:
            return
        stream.room -= size
        stream.credit += size - len(data)
        require(stream.room >= 0, "more data than the stream's window", Code.FLOW_CONTROL_ERROR)
        stream.on_data(data, last=bool(flags & h2.END_STREAM))
        self._settle(stream, last=bool(flags & h2.END_STREAM))

    def _give_room(self) -> None:
        """Streams have limits of their own; the connection's never stands in the way."""
        if self._room < h2.LARGEST_NUMBER // 2:
            self._send(_update(0, h2.LARGEST_NUMBER - self._room))
            self._room = h2.LARGEST_NUMBER

    def _on_headers(self, flags: int, number: int, payload: memoryview) -> None:
        self.calls.find(number)
        beginning = h2.unpadded(flags, payload)
        if flags & h2.WITH_PRIORITY:
            require(len(beginning) >= 5, "a priority that breaks off", Code.FRAME_SIZE_ERROR)
            beginning = beginning[5:]
        if flags & h2.END_HEADERS:
            self._on_block(number, flags, bytes(beginning))
        else:
            self._block = number, flags, bytearray(beginning)

    def _on_continuation(self, flags: int, number: int, payload: memoryview) -> None:
        require(self._block is not None, "a continuation of nothing")
        assert self._block is not None
        _, begun, block = self._block
        block += payload
        require(len(block) <= h2.LARGEST_BLOCK, "headers without end", Code.ENHANCE_YOUR_CALM)
        require(len(payload) > 0 or bool(flags & h2.END_HEADERS), "headers without end", Code.ENHANCE_YOUR_CALM)
        if flags & h2.END_HEADERS:
            self._block = None
            self._on_block(number, begun, bytes(block))

    def _on_block(self, number: int, flags: int, block: bytes) -> None:
        require(len(block) <= h2.LARGEST_BLOCK, "headers without end", Code.ENHANCE_YOUR_CALM)
        fields, stream = h2.fields_of(block), self.calls.find(number)
        if stream is not None:
            last = bool(flags & h2.END_STREAM)
            stream.on_fields(fields, last=last)
            self._settle(stream, last=last)

    def _settle(self, stream: Stream, *, last: bool) -> None:
        """Put away a stream that has ended, by the server's word or by our own finding."""
        if last and not stream.unsent:
            self.calls.over(stream)
        elif last:  # the server wants no more of the request
            self.calls.reset(stream, Code.NO_ERROR)
        elif stream.status is not None and not stream.abandoned:
            self.calls.reset(stream)

    def _on_reset(self, flags: int, number: int, payload: memoryview) -> None:
        stream, code = self.calls.find(number), h2.number(payload)
        if stream is not None:
            stream.on_reset(code)
            self.calls.over(stream)

    def _on_settings(self, flags: int, number: int, payload: memoryview) -> None:
        require(number == 0, "settings of a stream")
        if flags & h2.ACK:
            require(len(payload) == 0, "an acknowledgement that says something", Code.FRAME_SIZE_ERROR)
            return
        said = h2.settings_in(payload)
        self._send(h2.frame(h2.SETTINGS, h2.ACK, 0))
        self.calls.agree(said)
        if not self.ready.done():
            self.ready.set_result(None)

    def _on_push(self, flags: int, number: int, payload: memoryview) -> None:
        raise Broken(Code.PROTOCOL_ERROR, "a push, which nobody asked for")

    def _on_ping(self, flags: int, number: int, payload: memoryview) -> None:
        require(number == 0, "a ping of a stream")
        require(len(payload) == 8, "a ping of the wrong size", Code.FRAME_SIZE_ERROR)
        if not flags & h2.ACK:
            self._send(h2.frame(h2.PING, h2.ACK, 0, payload))

    def _on_goaway(self, flags: int, number: int, payload: memoryview) -> None:
        require(number == 0, "a farewell of a stream")
        require(len(payload) >= 8, "a farewell of the wrong size", Code.FRAME_SIZE_ERROR)
        self.calls.farewell(h2.number(payload[:4]))

    def _on_window(self, flags: int, number: int, payload: memoryview) -> None:
        self.calls.widen(number, h2.number(payload))


def _update(number: int, more: int) -> bytes:
    return h2.frame(h2.WINDOW_UPDATE, 0, number, more.to_bytes(4, "big"))


_TAKES: dict[int, Callable[[Connection, int, int, memoryview], None]] = {
    h2.DATA: Connection._on_data,
    h2.HEADERS: Connection._on_headers,
    h2.RST_STREAM: Connection._on_reset,
    h2.SETTINGS: Connection._on_settings,
    h2.PUSH_PROMISE: Connection._on_push,
    h2.PING: Connection._on_ping,
    h2.GOAWAY: Connection._on_goaway,
    h2.WINDOW_UPDATE: Connection._on_window,
    h2.CONTINUATION: Connection._on_continuation,
}
