"""A gRPC server by its address: calls to it, over one connection at a time that is made anew when it ends."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator

from grpc import StatusCode

from serving.errors import UserError
from serving.rpc import frames
from serving.rpc.connection import Connection
from serving.rpc.stream import RpcFault, Stream, Unheard

CONNECT_S = 1.0
"""A server has so long to take a connection and say its settings."""
FINISH_S = 1.0
"""A server has so long to finish the calls that it was sent before a connection is closed."""
AGAIN_S = 0.05
"""Between two attempts to connect."""
SEE_OUT = "see out what has begun"
"""A task that is cancelled with this message, and not once more, ends when the server is done with its unary call."""


class Channel:
    """Calls to one server, for one event loop."""

    def __init__(self, address: str) -> None:
        """`address`: host and port, an IPv6 host in brackets; raises UserError for anything else."""
        host, _, port = address.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not bare or not port.isdecimal() or (":" in bare and bare == host):
            raise UserError(f"{address!r} is no address of a gRPC server: write host:port or [IPv6]:port")
        self.address, self._host, self._port = address, bare, int(port)
        self._connection: Connection | None = None
        self._open: set[Connection] = set()  # those that only finish their calls too
        self._connecting: asyncio.Task[RpcFault | None] | None = None
        self._not_before = 0.0
        self._closed = False
        self._heads: dict[str, bytes] = {}

    async def unary(self, method: str, message: bytes, timeout_s: float) -> memoryview:
        """The response message; raises RpcFault.

        The server is told of no deadline and of no caller that left: it finishes what it has begun. Whoever must know
        when it is done with a call that nobody waits for any more cancels with `SEE_OUT`.
        """
        connection, stream = await self._begin(self._head(method), message, timeout_s, finishes=True)
        try:
            response = await stream.message()
            if response is None or await stream.message() is not None:
                raise RpcFault(StatusCode.INTERNAL, "not exactly one response")
            return response
        except asyncio.CancelledError as left:
            if SEE_OUT in left.args and stream.id:
                await stream.over()
            raise
        finally:
            connection.calls.drop(stream)

    async def replies(self, method: str, message: bytes, timeout_s: float) -> AsyncGenerator[memoryview, None]:
        """Every response message to one request message; raises RpcFault. Close it to cancel the call."""
        head = self._head(method) + _timeout(timeout_s)
        connection, stream = await self._begin(head, message, timeout_s, finishes=False)
        try:
            while (response := await stream.message()) is not None:
                connection.read(stream)
                yield response
        finally:
            connection.calls.drop(stream)

    async def close(self) -> None:
        """End every call, let the server finish for a moment, and close the sockets; no further call begins."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        for connection in list(self._open):
            connection.calls.finish()
            await asyncio.wait([connection.lost], timeout=FINISH_S)
            connection.abort()
            await connection.lost

    async def _begin(
        self, head: bytes, message: bytes, timeout_s: float, *, finishes: bool
    ) -> tuple[Connection, Stream]:
        deadline = asyncio.get_running_loop().time() + timeout_s
        stream = Stream(head, message, deadline, finishes=finishes)
        connection = self._connection
        while connection is None or connection.calls.leaving:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._connect()
            except TimeoutError:
                raise RpcFault(StatusCode.DEADLINE_EXCEEDED, "no connection in time") from None
            connection = self._connection
        connection.calls.begin(stream)
        return connection, stream

    def _head(self, method: str) -> bytes:
        """The header block of a call, the same each time."""
        made = self._heads.get(method)
        if made is None:
            made = self._heads[method] = frames.block([
                (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", self.address),
                ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "headframe"),
            ])  # fmt: skip
        return made

    async def _connect(self) -> None:
        """A new connection, made once for all who wait for it; raises RpcFault."""
        if self._closed:
            raise RpcFault(StatusCode.UNAVAILABLE, "the channel is closed")
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._attempt())
        attempt = self._connecting
        await asyncio.wait([attempt])  # whoever leaves takes it from nobody
        if attempt.cancelled():  # before it had begun
            raise RpcFault(StatusCode.UNAVAILABLE, "the channel is closed")
        fault = attempt.result()
        if fault is not None:
            raise type(fault)(fault.code, fault.detail)

    async def _attempt(self) -> RpcFault | None:
        loop = asyncio.get_running_loop()
        made = Connection()
        try:
            await asyncio.sleep(self._not_before - loop.time())
            self._not_before = loop.time() + AGAIN_S
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(lambda: made, self._host, self._port)
                self._open.add(made)
                made.lost.add_done_callback(lambda _: self._open.discard(made))
                await made.ready
        except (OSError, RpcFault, asyncio.CancelledError) as error:  # a TimeoutError is an OSError
            kind = Unheard if made in self._open and isinstance(error, TimeoutError) else RpcFault
            made.abort()
            return kind(StatusCode.UNAVAILABLE, f"cannot connect to {self.address}: {type(error).__name__}")
        finally:
            self._connecting = None
        self._connection = made
        return None


def _timeout(timeout_s: float) -> bytes:
    """The field that tells the server a deadline, in milliseconds of at most eight digits."""
    return frames.block([("grpc-timeout", f"{min(10**8 - 1, max(1, math.ceil(timeout_s * 1e3)))}m")])
