"""A time server on loopback that says what a test tells it to.

While it runs, this machine's clock stands still for the client, but for the time that the test gives to a request's
way: what is measured does not hang on how busy the machine is.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest import mock

from infra import ntp

UNIX = 2_208_988_800
PATIENCE_S = 60.0
"""In place of the client's own 2 seconds, which a busy machine may lose between a question and its answer."""
Answer = Callable[[bytes], bytes | None]
"""From a request to the reply, None for silence."""


def stamp(unix: float) -> int:
    """A unix time as NTP writes it, modulo its era."""
    return int((unix + UNIX) * 2**32) % 2**64


class Clock:
    """In place of the module `time`: moved by the ways of requests alone."""

    def __init__(self) -> None:
        self.began = time.time()
        self.elapsed = 0.0

    def time(self) -> float:
        """Unix s."""
        return self.began + self.elapsed

    def monotonic(self) -> float:
        """Seconds."""
        return self.elapsed


CLOCK = Clock()


def reply(
    request: bytes, *, ahead: float = 0.0, mode: int = 4, leap: int = 0, stratum: int = 2, reference: bytes = b"\0" * 4,
    echo: bytes | None = None, took: float = 0.0, there: float = 0.0, back: float = 0.0, blank: bool = False,
) -> bytes:  # fmt: skip
    """What a server whose clock is `ahead` seconds ahead of ours answers, having thought for `took` seconds.

    The request is `there` seconds on its way, and the reply `back` seconds.
    """
    CLOCK.elapsed += there
    now = CLOCK.time() + ahead
    CLOCK.elapsed += took + back
    head = struct.pack("!BBbbII4s", leap << 6 | 4 << 3 | mode, stratum, 6, -20, 0, 0, reference)
    times = struct.pack("!QQ", 0 if blank else stamp(now), 0 if blank else stamp(now + took))
    return head + bytes(8) + (request[40:48] if echo is None else echo) + times


@contextmanager
def time_server(answer: Answer, *, before: Answer | None = None) -> Iterator[str]:
    """Its address, as ``host:port``; `before` is sent ahead of every answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                try:
                    request, caller = link.recvfrom(512)
                except OSError:
                    return
                if not request:
                    return
                for said in (before(request) if before else None, answer(request)):
                    if said is not None:
                        link.sendto(said, caller)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        patient = partial(ntp.measure, limit_s=PATIENCE_S)
        try:
            with mock.patch.object(ntp, "time", CLOCK), mock.patch.object(ntp, "measure", patient):
                yield f"127.0.0.1:{link.getsockname()[1]}"
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", link.getsockname())
            thread.join(timeout=10)
