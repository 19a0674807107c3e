"""A request and its reply between a connection and the gateway: uvicorn's messages, at less cost.

The head of a reply waits for the first of its body and goes out with it, in one system call. Names and values are
our own (`serving.wire.reply`), in lower case and printable, so nobody searches them for line ends once more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_JOINED = 16 * 1024
"""Up to here head and body are put together; a longer body is not copied."""


class Cycle(RequestResponseCycle):
    """The two ASGI callables of one request."""

    _head: bytes | None = None

    def arrived(self) -> bytes | None:
        """The whole body, if all of it is here; for whoever has not called `receive`."""
        if self.more_body or self.disconnected:
            return None
        self.flow.resume_reading()  # so that a caller who hangs up is noticed
        return bytes(self.body)

    async def send(self, message: Any) -> None:
        """A start, then one body or several; nothing goes out once the caller is gone."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._head = self._head_of(message["status"], [*self.default_headers, *message["headers"]])
        else:
            self._write(message["body"], message.get("more_body", False))

    def _head_of(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        self.chunked_encoding = True
        closes = False
        lines = [STATUS_LINE[status]]
        for header in headers:
            lines.append(b"%b: %b\r\n" % header)
            if header[0] == b"content-length":
                self.chunked_encoding = False
            elif header[0] == b"connection":
                self.keep_alive, closes = False, True
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not (self.keep_alive or closes):
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _write(self, body: Any, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        elif self.chunked_encoding:
            body = b"".join((b"%x\r\n" % len(body), body, b"\r\n") if body else ()) + (b"" if more else b"0\r\n\r\n")
        if self._head is not None:
            self.response_started, self.waiting_for_100_continue = True, False
            if len(body) > _JOINED:
                self.transport.writelines((self._head, body))
            else:
                self.transport.write(self._head + body)
            self._head = None
        elif body:
            self.transport.write(body)
        if not more:
            self.response_complete = True
            self.message_event.set()
            self.on_response()  # which closes, where this was the last
