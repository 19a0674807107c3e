"""Structured logs: one JSON line an event on stderr, never a caller's text."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, BinaryIO, cast

import msgspec
import structlog


class Unheard:
    """A log file; a line that it does not take is lost: a full disk or a closed terminal ends no process of ours."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, piece: bytes) -> None:
        """Write what can be written."""
        with suppress(OSError):
            self._file.write(piece)

    def flush(self) -> None:
        """Hand it over, if somebody takes it."""
        with suppress(OSError):
            self._file.flush()


def configure(component: str, **bound: Any) -> Any:
    """Set up logging for this process and return its logger; the libraries' own logs are kept to errors."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=lambda value, **_: msgspec.json.encode(value, enc_hook=repr)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.BytesLoggerFactory(cast(BinaryIO, Unheard(sys.stderr.buffer))),
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    return structlog.get_logger().bind(component=component, **bound)
