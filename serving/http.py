"""HTTP/1.1 for the public port: uvicorn's httptools protocol, with the limits it lacks.

It adds a deadline for heads (a connection that says nothing is closed), a bound on an endless head before it is
whole, the request target as it was sent, and an error body in our own shape.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.errors import Refusal
from serving.wire.claim import reads_bt_headers
from serving.wire.head import MAX_BYTES
from serving.wire.reply import refusal

HEAD_DEADLINE_S = 10.0
KEEP_ALIVE_S = 75.0
_SLACK = 4096
"""Request line and separators, which `wire.head` does not count."""


class Protocol(HttpToolsProtocol):
    """One connection of the public port."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_BYTES + _SLACK:
                self._refuse(431, "the head is too large")
                return
        if self._head_timer is None and self.quiet():  # a further head comes in pieces
            self._arm()

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._disarm()
        self.scope["headframe.target"] = self.url  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def quiet(self) -> bool:
        """Whether no request of this connection is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not an HTTP request")

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        counted: Any = getattr(self.config.loaded_app, "metrics", None)
        if counted is not None:
            counted.refusal(status, "bad_http")
        dendrite = reads_bt_headers(name for name, _ in self.headers or ())
        answer = refusal("legacy" if dendrite else None, Refusal(status, "bad_http", message), 0.0, close=True)
        head = b"".join(b"%b: %b\r\n" % header for header in answer.headers)
        self.transport.write(b"".join((STATUS_LINE[status], head, b"\r\n", answer.body)))
        self.transport.close()

    def _arm(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_DEADLINE_S, self._head_late)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        if self.quiet() and not self.transport.is_closing():
            self.transport.close()
