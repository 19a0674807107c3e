"""One HTTP/2 connection to a gRPC server: frames in and out, windows, and the end of streams.

Whatever breaks the protocol ends the connection, and every call on it is then one that never came to a server.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import cast

from grpc import StatusCode

from serving.rpc import frames as h2
from serving.rpc.cutting import Cutter
from serving.rpc.frames import Broken, Code, Setting, require
from serving.rpc.stream import MAX_MESSAGE, NOTHING, WINDOW, RpcFault, Stream

GONE_S = 10
"""A host that acknowledges nothing for so long is gone, and the connection with it."""
UNREAD = 4 * MAX_MESSAGE
"""Bytes that a server may leave in our buffer before it counts as gone."""
_FIRST_WINDOW = 65_535
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
        self.leaving = False
        """No further call may begin."""
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._cutter = Cutter(h2.HEAD, h2.length_of)
        self._streams: dict[int, Stream] = {}
        self._waiting: deque[Stream] = deque()  # for a place among the streams the server wants at most
        self._stuck: dict[int, Stream] = {}  # for the server's windows
        self._next = 1
        self._most = h2.LARGEST_NUMBER
        self._largest, self._first_window = 2**14, _FIRST_WINDOW
        self._window, self._room = _FIRST_WINDOW, _FIRST_WINDOW
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags and beginning of an unfinished one

    # calls

    def begin(self, stream: Stream) -> None:
        """Send a call, now or as soon as the server lets us; it ends by its deadline, whatever happens."""
        stream.timer = self._loop.call_at(stream.deadline, self._late, stream)
        if self._waiting or len(self._streams) >= self._most:
            self._waiting.append(stream)
        else:
            self._open(stream)

    def drop(self, stream: Stream) -> None:
        """Nobody waits for a call any more: cancel it, or let the server finish it if it `finishes`; once is enough."""
        if stream.timer is not None:
            stream.timer.cancel()
        stream.abandon()
        if stream.id == 0 and stream in self._waiting:
            self._waiting.remove(stream)
        elif stream.id in self._streams and (stream.unsent or not stream.finishes):
            self._reset(stream)

    def read(self, stream: Stream) -> None:
        """Let the server send on after the caller has read."""
        if stream.credit >= MAX_MESSAGE and stream.id in self._streams:
            self._send(_update(stream.id, stream.credit))
            stream.room += stream.credit
            stream.credit = 0

    def finish(self) -> None:
        """End every call, and close once the server has finished what it must."""
        self.leaving = True
        for stream in list(self._streams.values()):
            stream.end(StatusCode.UNAVAILABLE, "the connection is closing")
            self.drop(stream)
        self._next_waiting()

    def abort(self, why: str = "the connection was closed") -> None:
        """Close at once; every call ends."""
        self.leaving = True
        if self._transport is not None:
            self._transport.abort()
        self._fail(StatusCode.UNAVAILABLE, why)

    def _open(self, stream: Stream) -> None:
        stream.id, stream.window = self._next, self._first_window
        self._next += 2
        self.leaving |= self._next > h2.LARGEST_NUMBER
        self._streams[stream.id] = stream
        self._push(stream, [h2.frame(h2.HEADERS, h2.END_HEADERS, stream.id, stream.head)])

    def _push(self, stream: Stream, out: list[bytes]) -> None:
        """Send `out`, and as much of a body as the windows take."""
        while stream.unsent:
            size = min(len(stream.unsent), stream.window, self._window, self._largest)
            if size <= 0:
                self._stuck[stream.id] = stream
                break
            stream.window -= size
            self._window -= size
            data, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            out.append(h2.frame(h2.DATA, 0 if stream.unsent else h2.END_STREAM, stream.id, data))
        else:
            stream.head, stream.unsent = b"", NOTHING
            self._stuck.pop(stream.id, None)
        self._send(b"".join(out))

    def _push_all(self) -> None:
        for stream in list(self._stuck.values()):
            if self._window <= 0:
                return
            self._push(stream, [])

    def _reset(self, stream: Stream, code: Code = Code.CANCEL) -> None:
        """Tell the server that a stream is over."""
        self._send(h2.frame(h2.RST_STREAM, 0, stream.id, code.to_bytes(4, "big")))
        self._over(stream)

    def _over(self, stream: Stream) -> None:
        """Both sides know that a stream is over."""
        del self._streams[stream.id]
        self._stuck.pop(stream.id, None)
        if stream.timer is not None:
            stream.timer.cancel()
        self._next_waiting()

    def _late(self, stream: Stream) -> None:
        stream.end(StatusCode.DEADLINE_EXCEEDED, "no answer in time")
        self.drop(stream)

    def _next_waiting(self) -> None:
        while self._waiting and len(self._streams) < self._most and not self.leaving:
            self._open(self._waiting.popleft())
        if self.leaving:
            self._fail_waiting("the server takes no further calls on this connection")
            if not self._streams and self._transport is not None:
                self._transport.close()

    def _fail_waiting(self, why: str) -> None:
        while self._waiting:
            self._end(self._waiting.popleft(), StatusCode.UNAVAILABLE, why)

    def _fail(self, code: StatusCode, why: str) -> None:
        """End every call."""
        streams, self._streams = self._streams, {}
        self._stuck.clear()
        for stream in streams.values():
            self._end(stream, code, why)
        self._fail_waiting(why)

    def _end(self, stream: Stream, code: StatusCode, why: str) -> None:
        if stream.timer is not None:
            stream.timer.cancel()
        stream.end(code, why)

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

    def connection_lost(self, exc: Exception | None) -> None:
        """Every call ends; one that is made anew may reach a server."""
        self.leaving = True
        self._fail(StatusCode.UNAVAILABLE, f"the connection was lost{f' ({type(exc).__name__})' if exc else ''}")
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

    # frames

    def _take(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        if not self.ready.done():
            require(kind == h2.SETTINGS and not flags & h2.ACK, "a connection that does not begin with settings")
        if self._block is not None:
            require(kind == h2.CONTINUATION and number == self._block[0], "a header block that breaks off")
        take = _TAKES.get(kind)
        if take is not None:
            take(self, flags, number, payload)

    def _stream(self, number: int) -> Stream | None:
        """A stream of ours, None when it is over."""
        require(number % 2 == 1 and number < self._next, "a stream that never began")
        return self._streams.get(number)

    def _on_data(self, flags: int, number: int, payload: memoryview) -> None:
        size = len(payload)
        self._room -= size
        require(self._room >= 0, "more data than the connection's window", Code.FLOW_CONTROL_ERROR)
        self._give_room()
        stream = self._stream(number)
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
        self._stream(number)
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
        fields, stream = h2.fields_of(block), self._stream(number)
        if stream is not None:
            last = bool(flags & h2.END_STREAM)
            stream.on_fields(fields, last=last)
            self._settle(stream, last=last)

    def _settle(self, stream: Stream, *, last: bool) -> None:
        """Put away a stream that has ended, by the server's word or by our own finding."""
        if last and not stream.unsent:
            self._over(stream)
        elif last:  # the server wants no more of the request
            self._reset(stream, Code.NO_ERROR)
        elif stream.status is not None and not stream.abandoned:
            self._reset(stream)

    def _on_reset(self, flags: int, number: int, payload: memoryview) -> None:
        stream, code = self._stream(number), h2.number(payload)
        if stream is not None:
            stream.on_reset(code)
            self._over(stream)

    def _on_settings(self, flags: int, number: int, payload: memoryview) -> None:
        require(number == 0, "settings of a stream")
        if flags & h2.ACK:
            require(len(payload) == 0, "an acknowledgement that says something", Code.FRAME_SIZE_ERROR)
            return
        said = h2.settings_in(payload)
        self._most = said.get(Setting.MAX_CONCURRENT_STREAMS, self._most)
        self._largest = said.get(Setting.MAX_FRAME_SIZE, self._largest)
        more = said.get(Setting.INITIAL_WINDOW_SIZE, self._first_window) - self._first_window
        self._first_window += more
        for stream in self._streams.values():
            stream.window += more
            require(stream.window <= h2.LARGEST_NUMBER, "a window beyond its limit", Code.FLOW_CONTROL_ERROR)
        self._send(h2.frame(h2.SETTINGS, h2.ACK, 0))
        if not self.ready.done():
            self.ready.set_result(None)
        self._push_all()
        self._next_waiting()

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
        self.leaving = True
        last = h2.number(payload[:4])
        for stream in [stream for stream in self._streams.values() if stream.id > last]:
            del self._streams[stream.id]
            self._stuck.pop(stream.id, None)
            self._end(stream, StatusCode.UNAVAILABLE, "the server left before it saw the call")
        self._next_waiting()

    def _on_window(self, flags: int, number: int, payload: memoryview) -> None:
        more = h2.number(payload)
        stream = self._stream(number) if number else None
        require(more > 0, "a window that grows by nothing")
        if number == 0:
            self._window += more
        elif stream is not None:
            stream.window += more
        grown = self._window if stream is None else stream.window
        require(grown <= h2.LARGEST_NUMBER, "a window beyond its limit", Code.FLOW_CONTROL_ERROR)
        self._push_all()


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
