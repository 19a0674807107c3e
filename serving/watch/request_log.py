"""The log of requests: lines of the same shape as structlog's, put together and written at a fraction of its cost."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import BinaryIO

import msgspec

PIECE = 4096
"""Bytes that a pipe keeps together, whoever else writes to it."""
TOGETHER = 12
"""Lines that mostly fit into a piece."""

_Facts = tuple[str, str | None, str, str, str, str | None, str, str | None]
"""Request id to release of a line."""


class _Line(msgspec.Struct, frozen=True, gc=False):
    component: str
    pid: int
    request_id: str
    dialect: str | None
    route: str
    code: str
    caller: str
    slot: str | None
    role: str
    release: str | None
    ms: float
    timestamp: datetime
    event: str = "request"
    level: str = "info"


class RequestLog:
    """Lines are put together a dozen at a time, or at a `flush`: done at once, each would find the caches cold.

    Those that a killed worker had waiting are only in the traffic record.
    """

    def __init__(self, component: str, file: BinaryIO | None = None) -> None:
        self._component = component
        self._pid = os.getpid()
        self._file = file or sys.stderr.buffer
        self._encode = msgspec.json.Encoder().encode
        self._lock = threading.Lock()
        self._waiting: deque[tuple[_Facts, float, float]] = deque()

    def add(
        self, *, request_id: str, dialect: str | None, route: str, code: str, caller: str, slot: str | None,
        role: str, release: str | None, seconds: float,
    ) -> None:  # fmt: skip
        """One request; `seconds` is how long it took."""
        facts = (request_id, dialect, route, code, caller, slot, role, release)
        self._waiting.append((facts, seconds, time.time()))
        if len(self._waiting) >= TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            piece = b""
            for _ in range(len(self._waiting)):
                line = self._line(*self._waiting.popleft())
                if len(piece) + len(line) > PIECE:
                    self._write(piece)
                    piece = b""
                piece += line
            self._write(piece)

    def _line(self, facts: _Facts, seconds: float, at: float) -> bytes:
        ms, timestamp = round(seconds * 1e3, 3), datetime.fromtimestamp(at, UTC)
        return self._encode(_Line(self._component, self._pid, *facts, ms, timestamp)) + b"\n"

    def _write(self, piece: bytes) -> None:
        if piece:
            with contextlib.suppress(OSError):  # nobody reads the log: no reason to fail a request
                self._file.write(piece)
                self._file.flush()
