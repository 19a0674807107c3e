"""HTTP/1.1 as the public port reads it: uvicorn's httptools protocol, with the limits it lacks.

A head that is endless and a body that is more framing than content are refused. What is not HTTP, or has more than one
reading, gets an error body in our own shape.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.errors import Refusal
from serving.public.cycle import Cycle
from serving.public.line import Line
from serving.wire.claim import reads_bt_headers
from serving.wire.head import MAX_BYTES, check_framing
from serving.wire.reply import refusal

MAX_PIPELINED = 16
"""Requests that may wait on one connection behind the one that is answered."""
_SLACK = 4096
"""Request line and separators, which `wire.head` does not count."""
_FREE_FRAMING = 64 * 1024
_PIECE = 64
"""Bytes that a piece of a body is charged: it costs a call whatever its size."""


class Protocol(Line):
    """One connection of the public port."""

    _head_bytes = 0
    _in_head = False
    _in_body = False
    _framing = 0
    """Bytes of the present body's framing and the cost of its pieces, less its content."""
    _content = 0
    """Bytes of content in what came last."""

    # What comes in

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._ending.throw_away(len(data))
            return
        if self._resting:
            self._resting = False
            self._head_due.clear()
        try:
            self.parser.feed_data(data)
            self._check_sizes(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            ours = error.__context__
            self._refuse(ours if isinstance(ours, Refusal) else Refusal(400, "bad_http", "this is not HTTP/1.1"))
        except Refusal as refused:
            self._refuse(refused)
        if self._head_due.at is None and self.quiet() and not (self._deaf or self.transport.is_closing()):
            self._expect_head()  # a further head comes in pieces

    def _check_sizes(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_BYTES + _SLACK:
                raise Refusal(431, "headers_too_large", "the head is too large")
        elif self._in_body:
            self._count_framing(len(data) - self._content)
        self._content = 0

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer would pass for a header that was there from the start
            raise Refusal(400, "trailers", "fields after the body are not accepted")
        name = name.lower()
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body, self._framing, self._content = False, True, 0, 0
        self._head_due.clear()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise Refusal(400, "pipelined", "too many requests at once on one connection")
        version = self.parser.get_http_version()
        check_framing(version, self.url, self.headers)
        answering, self.cycle = self.cycle, self._begin(version)
        if answering is None or answering.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _begin(self, version: str) -> Cycle:
        """The request whose head is whole, as what the gateway reads of an ASGI scope."""
        path, _, query = self.url.partition(b"?")
        scope: dict[str, Any] = {
            "type": "http", "http_version": version, "method": self.parser.get_method().decode("ascii"),
            "raw_path": path, "query_string": query, "headers": self.headers, "client": self.client,
            "headframe.target": self.url, "headframe.connection": self,
        }  # fmt: skip
        cycle = Cycle(
            scope=scope,  # type: ignore[arg-type]
            transport=self.transport, flow=self.flow, logger=self.logger, access_logger=self.access_logger,
            access_log=False, default_headers=self.server_state.default_headers, message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and version != "1.0",  # which knows no leave to send
            keep_alive=version != "1.0" and self.parser.should_keep_alive(), on_response=self.on_response_complete,
        )  # fmt: skip
        scope["headframe.arrived"] = cycle.arrived
        return cycle

    def on_body(self, body: bytes) -> None:
        self._content += len(body)
        self._count_framing(_PIECE - len(body))
        super().on_body(body)

    def _count_framing(self, size: int) -> None:
        self._framing += size
        if self._framing > _FREE_FRAMING:
            raise Refusal(400, "bad_chunks", "the body is more framing than content")

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()
        if not self.pipeline:
            self.flow.resume_reading()  # a long body may have stopped it, and a caller who hangs up must be noticed
        if self.quiet():  # the reply did not wait for all of the body
            self._rest()

    # What is refused here, before the road

    def send_400_response(self, msg: str) -> None:
        self._refuse(Refusal(400, "bad_http", "this is not HTTP/1.1"))

    def _refuse(self, refused: Refusal) -> None:
        """Say so and close; where an earlier request is being answered, close after its reply instead."""
        if self.transport.is_closing():
            return
        self.gateway.metrics.refusal(refused.status, refused.code)
        self.gateway.door.junk.charge(self._peer.address)
        if not self._may_speak():
            self._hear_no_more()
            return
        if self._answering is not None:
            self._answering.disconnected = True  # its own reply must not follow this one
            self._answering.message_event.set()
        dendrite = reads_bt_headers(name for name, _ in self.headers or ())
        answer = refusal("legacy" if dendrite else None, refused, 0.0, close=True)
        head = b"".join(b"%b: %b\r\n" % header for header in answer.headers)
        self.transport.write(b"".join((STATUS_LINE[refused.status], head, b"\r\n", answer.body)))
        self._end(unread=self._in_body or refused.status == 431)  # what is not HTTP at all is not worth hearing out

    def _may_speak(self) -> bool:
        """Whether a reply now would be taken for the reply to what was refused."""
        if self._answering is None or self._answering.response_complete:
            return True
        return self._in_body and self._answering is self.cycle and not self._answering.response_started

    def _hear_no_more(self) -> None:
        """Answer what was understood, then close."""
        self._deaf = True
        last = self.pipeline[0][0] if self.pipeline else self.cycle
        if last is not None:
            last.keep_alive = False
