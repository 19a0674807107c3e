"""How far this machine's clock is off, asked of time servers: a small SNTP client (RFC 5905, section 14)."""

from __future__ import annotations

import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

PORT = 123
LIMIT_S = 2.0
"""For all servers together, the look-up of their names included."""
_PACKET = struct.Struct("!BBbb3I4Q")
"""Leap, version and mode; stratum; poll; precision; root delay, root dispersion, reference id; four timestamps."""
_CLIENT = 4 << 3 | 3
_SERVER = 4
_UNSYNCHRONISED = 3
_UNIX = 2_208_988_800
"""1900-01-01, where NTP's time begins, to 1970-01-01, in seconds."""
_ERA = 2**32
"""Seconds in which NTP's clock goes round."""


class NtpError(ValueError):
    """A server did not answer, or not with a time that can be believed."""


class Skew(NamedTuple):
    """What the time servers said of our clock."""

    skew_s: float | None
    """Seconds that our clock is ahead of the median server, negative when it is behind; None when none answered."""
    answered: int
    asked: int
    problems: tuple[str, ...]

    def text(self) -> str:
        """In words."""
        if self.skew_s is None:
            return f"no time server answered: {'; '.join(self.problems) or 'none is set'}"
        way = "ahead" if self.skew_s > 0 else "behind"
        return f"{abs(self.skew_s):.3f} s {way}, by {self.answered} of {self.asked} time servers"


def measure(servers: Sequence[str], limit_s: float = LIMIT_S) -> Skew:
    """Ask all servers at once, at most `limit_s` seconds."""
    said: queue.SimpleQueue[float | str] = queue.SimpleQueue()

    def one(server: str) -> None:
        try:
            said.put(-offset_s(server, limit_s))
        except (NtpError, OSError) as error:
            said.put(f"{server}: {error}")

    for server in servers:  # a name that cannot be looked up must not hold up the others, nor our exit
        threading.Thread(target=one, args=(server,), name="ntp", daemon=True).start()
    end = time.monotonic() + limit_s
    found: list[float | str] = []
    while len(found) < len(servers) and (left := end - time.monotonic()) > 0:
        try:
            found.append(said.get(timeout=left))
        except queue.Empty:
            break
    skews = [skew for skew in found if isinstance(skew, float)]
    problems = tuple(problem for problem in found if isinstance(problem, str))
    return Skew(median(skews) if skews else None, len(skews), len(servers), problems)


def offset_s(server: str, limit_s: float = LIMIT_S) -> float:
    """Seconds by which the server's clock is ahead of ours; raises NtpError or OSError.

    ((t1 - t0) + (t2 - t3)) / 2 with t0, t3 ours at sending and receiving, t1, t2 the server's (RFC 5905, section 8).
    """
    cookie = int.from_bytes(os.urandom(8), "big")  # in place of our own time, which is nobody's business
    family, kind, protocol, _, address = socket.getaddrinfo(*_split(server), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as link:
        link.settimeout(limit_s)
        link.connect(address)  # so that the kernel drops what others send
        t0, started = time.time(), time.monotonic()
        link.send(_PACKET.pack(_CLIENT, 0, 0, 0, 0, 0, 0, 0, 0, 0, cookie))
        while True:
            data = link.recv(512)
            took = time.monotonic() - started
            if len(data) >= _PACKET.size and _PACKET.unpack_from(data)[8] == cookie:
                break
            if took > limit_s:
                raise NtpError("sends answers to something else")
    t1, t2 = _times(data, t0)
    t3 = t0 + took  # the clock itself may have been set in between
    return ((t1 - t0) + (t2 - t3)) / 2


def _split(server: str) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port``, ``[address]:port``, or a bare IPv6 address."""
    host, colon, port = server.rpartition(":")
    if colon and (server.startswith("[") or ":" not in host) and port.isdecimal() and 0 < int(port) < 65536:
        return host.strip("[]"), int(port)
    return server.strip("[]"), PORT


def _times(data: bytes, near: float) -> tuple[float, float]:
    """When the server received and sent, unix s; raises NtpError when it does not know the time."""
    first, stratum, _, _, _, _, reference, _, _, received, sent = _PACKET.unpack_from(data)
    if first & 7 != _SERVER:
        raise NtpError(f"answers in mode {first & 7}, not as a server")
    if stratum == 0:
        code = reference.to_bytes(4, "big").decode("ascii", "replace").strip("\0")
        raise NtpError(f"asks to be left alone ({code if code.isalnum() else 'no code'})")
    if first >> 6 == _UNSYNCHRONISED or stratum > 15:
        raise NtpError("has no time of its own")
    if not received or not sent:
        raise NtpError("answers without a time")
    return _unix(received, near), _unix(sent, near)


def _unix(timestamp: int, near: float) -> float:
    """An NTP timestamp as unix s, in the era that is nearest to `near`."""
    seconds = timestamp / 2**32 - _UNIX
    return seconds + round((near - seconds) / _ERA) * _ERA
