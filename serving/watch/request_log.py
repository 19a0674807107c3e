"""The log of requests: lines of the same shape as structlog's, put together and written at a fraction of its cost."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from datetime import UTC, datetime
from typing import BinaryIO

import msgspec

PIECE = 4096
"""Bytes that a pipe keeps together, whoever else writes to it."""


class _Line(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
    event: str = "request"
    level: str = "info"
    timestamp: datetime


class RequestLog:
    """Lines wait until they fill a piece, or for `flush`; those of a killed worker are only in the traffic record."""

    def __init__(self, component: str, file: BinaryIO | None = None) -> None:
        self._component = component
        self._pid = os.getpid()
        self._file = file or sys.stderr.buffer
        self._encode = msgspec.json.Encoder().encode
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._size = 0

    def add(
        self, *, request_id: str, dialect: str | None, route: str, code: str, caller: str, slot: str | None,
        role: str, release: str | None, seconds: float,
    ) -> None:  # fmt: skip
        """One request; `seconds` is how long it took."""
        line = self._encode(
            _Line(
                component=self._component, pid=self._pid, request_id=request_id, dialect=dialect, route=route,
                code=code, caller=caller, slot=slot, role=role, release=release, ms=round(seconds * 1e3, 3),
                timestamp=datetime.now(UTC),
            )
        )  # fmt: skip
        with self._lock:
            if self._size + len(line) >= PIECE:
                self._write()
            self._waiting.append(line)
            self._size += len(line) + 1

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            lines = b"\n".join((*self._waiting, b""))
            self._waiting.clear()
            self._size = 0
            with contextlib.suppress(OSError):  # nobody reads the log: no reason to fail a request
                self._file.write(lines)
                self._file.flush()
