"""uvicorn's server with a gentler end, a fair share of the connections, and no hand on the signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Generator

import uvicorn

from serving.public.http import Protocol
from serving.public.listening import BACKLOG
from serving.workers.balance import Counted, Shares

STEP_BACK_S = 0.01
"""How long a worker that is ahead leaves what comes to the others; then it takes one all the same."""
AGAIN_S = 0.1
_CLOSE = (b"connection", b"close")


class Server(uvicorn.Server):
    """Takes connections off a socket that other processes listen on too."""

    def __init__(
        self, config: uvicorn.Config, *, idle_grace_s: float, shares: Shares | None = None, place: int = 0
    ) -> None:  # fmt: skip
        """`shares`: what all workers hold, this one at `place`; without it, this is the only one."""
        super().__init__(config)
        self.idle_grace_s = idle_grace_s
        self._shares = shares or Shares.reserve(1)
        self._place = place
        self._held = Counted(self._shares, place)
        self._back = False

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """The worker listens to signals itself: uvicorn would end the process before the traffic record is closed."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the one socket."""
        assert sockets is not None
        (self._listener,) = sockets
        self.server_state.connections = self._held
        await self._listen()
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop. The headers of every reply stay one list, so that `shutdown` reaches all of them."""
        return self.should_exit

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more; tell every caller to close, at its next reply; then close who did not, and finish the rest.

        A caller may be sending on an idle connection at this very moment. Closed at once, its request would be lost.
        """
        self._held.leave()
        for server in self.servers:
            server.close()
        self._listener.close()
        state = self.server_state
        state.default_headers.append(_CLOSE)
        for connection in list(state.connections):
            if isinstance(connection, Protocol) and not connection.quiet():
                connection.shutdown()  # this one's reply says so too
        end = time.monotonic() + self.idle_grace_s
        while state.connections and time.monotonic() < end:  # noqa: ASYNC110 - uvicorn tells nobody when one ends
            await asyncio.sleep(0.02)
        await super().shutdown()

    async def _listen(self) -> None:
        """Take connections, from now on or again."""
        self._back = False
        if self.should_exit:
            return
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(self._connection, sock=self._listener.dup(), backlog=BACKLOG)
        except OSError:  # too many open files, for one
            loop.call_later(AGAIN_S, self._listen_again)
        else:
            self.servers = [server]

    def _listen_again(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._listen())

    def _connection(self) -> Protocol:
        """For a connection that was just taken; the next one may be another's."""
        if not self._back and self._shares.ahead(self._place):
            self._back = True
            asyncio.get_running_loop().call_soon(self._step_back)
        return Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _step_back(self) -> None:
        for server in self.servers:
            server.close()
        asyncio.get_running_loop().call_later(STEP_BACK_S, self._listen_again)
