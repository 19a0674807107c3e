"""How a connection ends: what was written is taken first, and what is still being sent is heard out for a while.

A connection that is closed with something unread is reset, and a reset can overtake the reply: a caller that sends all
before it reads, or a proxy, would see a broken connection and never the 413 that says why (RFC 9112, section 9.6).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

TAKE_DEADLINE_S = 30.0
"""A caller that takes less than `LEAST_TAKEN` of a waiting reply in this time is cut off."""
LEAST_TAKEN = 64 * 1024
LINGER_S = 2.0
"""How long a caller is heard out after its last reply."""
LINGER_BYTES = 1024 * 1024
"""How much of what it sends meanwhile is thrown away."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: close at once, and throw away what is not sent."""


class Ending:
    """The end of one connection."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, count: Callable[[str], None]
    ) -> None:  # fmt: skip
        """`count` is told why a connection was cut."""
        self._transport = transport
        self._loop = loop
        self._count = count
        self._take_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._untaken = 0
        self._spare = LINGER_BYTES
        self._over = False

    def close(self) -> None:
        """Close once everything is taken."""
        if not self._transport.is_closing():
            self._transport.close()
        self.watch()

    def linger(self) -> None:
        """Say that nothing more comes, and close when the caller has done the same, or has had its time."""
        self._transport.write_eof()
        self._linger_timer = self._loop.call_later(LINGER_S, self.close)
        self.watch()

    def throw_away(self, size: int) -> None:
        """So many bytes came that nobody wants."""
        self._spare -= size
        if self._linger_timer is not None and self._spare < 0:
            self.close()

    def cut(self, why: str) -> None:
        """Close at once; what was not taken is thrown away, in the kernel too."""
        self._count(why)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def watch(self) -> None:
        """Cut the connection if nothing is taken of what waits to go out."""
        self._untaken = self._transport.get_write_buffer_size()
        if self._untaken and self._take_timer is None and not self._over:
            self._take_timer = self._loop.call_later(TAKE_DEADLINE_S, self._look)

    def _look(self) -> None:
        self._take_timer = None
        if self._transport.get_write_buffer_size() > self._untaken - LEAST_TAKEN:
            self.cut("slow_reader")
        else:
            self.watch()

    def rest(self) -> None:
        """Little waits now, and may; but what is left of a connection that closes must be taken too."""
        if not self._transport.is_closing():
            self._stop_watching()

    def _stop_watching(self) -> None:
        if self._take_timer is not None:
            self._take_timer.cancel()
            self._take_timer = None

    def over(self) -> None:
        """The connection is closed."""
        self._over = True
        self._stop_watching()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
