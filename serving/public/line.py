"""One connection of the public port: its place in the house, the requests on it that are answered, and its end.

It is closed when it says nothing for too long, when it takes nothing of a long reply, and when the worker holds too
many. A caller that hangs up ends the work on its request. How its bytes are read is `serving.public.http`'s business.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.public.deadline import Deadline
from serving.public.ending import Ending
from serving.public.origins import NOWHERE, Address
from serving.rpc.channel import SEE_OUT

if TYPE_CHECKING:
    from serving.app import Gateway

HEAD_DEADLINE_S = 10.0
"""From the first byte of a head, or from the connection's beginning, to the head's end."""
KEEP_ALIVE_S = 75.0
"""How long a connection may rest between requests."""


class Line(HttpToolsProtocol):
    """uvicorn's connection, with a place that it may lose; the application behind it is a `Gateway`."""

    gone = False
    _admitted = False
    proven = False
    _deaf = False
    """What still comes is thrown away: it cannot be read any more."""
    _resting = False
    """Between two requests, with nothing of the second here yet."""
    _answering: RequestResponseCycle | None = None
    _task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.gateway: Gateway = self.config.loaded_app
        self._head_due = Deadline(self.loop, self._head_late)
        self._ending = Ending(transport, self.loop, self.gateway.metrics.cut)
        self._peer = self.gateway.door.origins.peer(self.client[0]) if self.client else NOWHERE
        full = self.gateway.door.connections.admit(None if self._peer.trusted else self._peer.address, self)
        if full:
            self.gateway.metrics.cut(full)
            transport.abort()
            return
        self._admitted = True
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._head_due.over()
        self._ending.over()
        if self._admitted:
            self.gateway.door.connections.leave(self._peer.address, self)
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            assert self._task is not None
            self._task.cancel(SEE_OUT)  # frees its place: at once, or when Triton is done with it

    def eof_received(self) -> None:
        """The caller says no more: the transport closes once all is taken."""
        self._ending.watch()

    def prove(self) -> None:
        """A signature that came over this connection was good."""
        if not (self.proven or self._peer.trusted):
            self.proven = True
            self.gateway.door.connections.forget(self._peer.address, self)

    def drop(self) -> None:
        """Close it now: a newcomer needs the room."""
        self._ending.cut("total")

    def break_off(self) -> None:
        """End the reply in its middle: nothing more of it comes, its last chunk least of all."""
        if self._answering is not None:
            self._answering.disconnected = True
        if self.transport.get_write_buffer_size():
            self._ending.cut("aborted")
        else:
            self.transport.close()

    def quiet(self) -> bool:
        """Whether no request of this connection is being answered."""
        return self.cycle is None or self.cycle.response_complete

    # The wait for a head

    def _expect_head(self) -> None:
        self._head_due.set(HEAD_DEADLINE_S)

    def _head_late(self) -> None:
        if not self.transport.is_closing():
            if not self._resting:
                self.gateway.metrics.cut("slow_head")
            self._ending.close()

    # Answers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        self._task = self.loop.create_task(cycle.run_asgi(app))
        self._task.add_done_callback(self.tasks.discard)
        self.tasks.add(self._task)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._ending.watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._ending.rest()

    def on_response_complete(self) -> None:
        answered = self._answering
        assert answered is not None
        if self.transport.is_closing():
            self._ending.watch()
        elif not answered.keep_alive:
            self._end(unread=self._deaf or answered.more_body)
        else:
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            else:
                self._rest()

    def _rest(self) -> None:
        self._resting = True
        self._head_due.set(KEEP_ALIVE_S)

    def _origin(self) -> Address:
        """Where the last request came from."""
        return self.gateway.door.origins.behind(self._peer, self.headers or ())

    def _end(self, *, unread: bool) -> None:
        """Close after the last reply; a caller that may still be sending is heard out first, where there is room."""
        self._deaf = True
        self._head_due.clear()
        if unread and self.gateway.door.connections.linger(self._origin(), self):
            self.flow.resume_reading()
            self._ending.linger()
        else:
            self._ending.close()
