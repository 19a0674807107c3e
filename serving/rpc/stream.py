"""One gRPC call on its HTTP/2 stream: messages in frames of their own, and how it ended.

Rules: "gRPC over HTTP2" of the gRPC project, with its tables of HTTP statuses and of RST_STREAM codes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from grpc import StatusCode

from serving.rpc.cutting import Cutter
from serving.rpc.frames import Code, require

MAX_MESSAGE = 64 * 1024 * 1024
PREFIX = 5
"""Bytes before each message: a flag for compression, and four of length."""
WINDOW = 2 * MAX_MESSAGE + 64 * 1024
"""What a server may send ahead: a message of any size, and up to MAX_MESSAGE that was read and not yet credited."""
NOTHING = memoryview(b"")
_STATUSES = {code.value[0]: code for code in StatusCode}
_HTTP = {
    400: StatusCode.INTERNAL, 401: StatusCode.UNAUTHENTICATED, 403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED, 429: StatusCode.UNAVAILABLE, 502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE, 504: StatusCode.UNAVAILABLE,
}  # fmt: skip
_RESETS = {
    Code.REFUSED_STREAM: StatusCode.UNAVAILABLE, Code.CANCEL: StatusCode.CANCELLED,
    Code.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED, Code.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}  # fmt: skip


class RpcFault(Exception):
    """A call ended otherwise than well."""

    def __init__(self, code: StatusCode, detail: str) -> None:
        super().__init__(f"{code.name}: {detail}")
        self.code, self.detail = code, detail


class Unheard(RpcFault):
    """The server took a connection and said nothing on it: one that is stopped, where another would be away."""


class Stream:
    """One call: what is still to be sent (by `serving.rpc.calls`), what came (to `serving.rpc.connection`), its end."""

    __slots__ = (
        "_answered", "_cutter", "_messages", "_waiter", "abandoned", "credit", "deadline", "finishes", "head", "id",
        "room", "status", "timer", "unsent", "window",
    )  # fmt: skip

    def __init__(self, head: bytes, message: bytes, deadline: float, *, finishes: bool) -> None:
        """`head`: the header block; `deadline` by the loop's clock; `finishes`: the server is never told to stop."""
        self.id = 0
        """0 until it has begun."""
        self.head, self.deadline, self.finishes = head, deadline, finishes
        self.abandoned = False
        self.unsent = memoryview(b"".join((b"\0", len(message).to_bytes(4, "big"), message)))
        self.window = 0
        """Bytes that the server takes."""
        self.room = WINDOW
        """Bytes that it may still send."""
        self.credit = 0
        """Bytes that were read, and that it was not told of."""
        self.status: tuple[StatusCode, str] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._answered = False
        self._messages: deque[memoryview] = deque()
        self._cutter = Cutter(PREFIX, _length_of)
        self._waiter: asyncio.Future[None] | None = None

    async def message(self) -> memoryview | None:
        """The next message, None after the last; raises RpcFault."""
        while not self._messages and self.status is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._messages:
            message = self._messages.popleft()
            self.credit += len(message)
            return message[PREFIX:]
        assert self.status is not None
        if self.status[0] is not StatusCode.OK:
            raise RpcFault(*self.status)
        return None

    async def over(self) -> None:
        """Wait until the call has ended, however it did."""
        while self.status is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def on_fields(self, fields: Mapping[bytes, bytes], *, last: bool) -> None:
        """The head of a response, or its trailers, or both in one; raises Broken."""
        if self.status is not None:
            return
        if not self._answered and not last:
            status = fields.get(b":status", b"")
            if not (len(status) == 3 and status.startswith(b"1")):  # 100 to 199 announce another head
                self._answered = True
                if (fault := _not_grpc(fields)) is not None:
                    self.end(*fault)
            return
        require(last, "trailers that are not the end")
        fault = None if self._answered else _not_grpc(fields)
        code, detail = _status_in(fields) or fault or (StatusCode.UNKNOWN, "the response ends without grpc-status")
        if code is StatusCode.OK and self._cutter.held:
            code, detail = StatusCode.INTERNAL, "the response ends within a message"
        self.end(code, detail)

    def on_data(self, data: memoryview, *, last: bool) -> None:
        """Bytes of messages; raises Broken."""
        if self.status is not None:
            return
        require(self._answered, "a body without a head")
        try:
            self._messages.extend(self._cutter.feed(data))
        except RpcFault as fault:
            self.end(fault.code, fault.detail)
        if last:
            self.end(StatusCode.INTERNAL, "the response has no trailers")
        self._wake()

    def on_reset(self, code: int) -> None:
        """The server gave the call up."""
        self.end(_RESETS.get(code, StatusCode.INTERNAL), f"the server reset the stream with code {code}")  # type: ignore[call-overload]

    def end(self, code: StatusCode, detail: str) -> None:
        """The call is over; the first end counts."""
        if self.status is None:
            if code is StatusCode.CANCELLED and asyncio.get_running_loop().time() >= self.deadline:
                code = StatusCode.DEADLINE_EXCEEDED  # the server's timer was looked at before ours
            self.status = code, detail
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._wake()

    def abandon(self) -> None:
        """Nobody waits any more; what still comes is not kept."""
        self.abandoned = True
        self.end(StatusCode.CANCELLED, "nobody waits for it")
        self._messages.clear()
        self._cutter = Cutter(PREFIX, _length_of)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _length_of(prefix: memoryview) -> int:
    if prefix[0] != 0:
        raise RpcFault(StatusCode.INTERNAL, "a compressed message, which nobody asked for")
    length = int.from_bytes(prefix[1:PREFIX], "big")
    if length > MAX_MESSAGE:
        raise RpcFault(StatusCode.RESOURCE_EXHAUSTED, f"a message of {length} bytes, more than {MAX_MESSAGE}")
    return length


def _status_in(fields: Mapping[bytes, bytes]) -> tuple[StatusCode, str] | None:
    """What the trailers say, None when they say nothing."""
    status = fields.get(b"grpc-status")
    if status is None:
        return None
    code = _STATUSES.get(int(status)) if status.isdigit() and len(status) <= 2 else None
    detail = unquote_to_bytes(fields.get(b"grpc-message", b"")).decode("utf-8", "replace")
    return code or StatusCode.UNKNOWN, detail


def _not_grpc(fields: Mapping[bytes, bytes]) -> tuple[StatusCode, str] | None:
    """Why a response's head is none of gRPC."""
    status = fields.get(b":status", b"")
    if status != b"200":
        code = _HTTP.get(int(status)) if status.isdigit() and len(status) == 3 else None
        return code or StatusCode.UNKNOWN, f"HTTP status {status.decode('ascii', 'replace')[:20]}"
    if not fields.get(b"content-type", b"").startswith(b"application/grpc"):
        return StatusCode.UNKNOWN, "the response's content-type is not gRPC's"
    return None
