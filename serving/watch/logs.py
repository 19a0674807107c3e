"""Structured logs: one JSON line an event on stderr, never a caller's text."""

from __future__ import annotations

import logging
import sys
from typing import Any

import msgspec
import structlog


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
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    return structlog.get_logger().bind(component=component, **bound)
