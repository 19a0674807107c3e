"""Answers as bytes: one shape for each dialect, errors included, and nothing of the caller's in them."""

from __future__ import annotations

import msgspec

from serving.errors import UNAVAILABLE, Refusal
from serving.types import Body
from serving.wire import legacy
from serving.wire.claim import DialectName

Headers = list[tuple[bytes, bytes]]
_MAX_MESSAGE = 200
_CLOSES = frozenset({408, 413, 431})
"""After these the rest of the request is not worth reading."""


class Answer(msgspec.Struct, frozen=True):
    """What goes back over the wire."""

    status: int
    headers: Headers
    body: Body


def success(dialect: DialectName | None, body: Body, process_s: float) -> Answer:
    """A 200 with a JSON body."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if dialect == "legacy":
        headers += legacy.reply_headers(200, "Success", process_s)
    return Answer(200, headers, body)


def stream_headers(dialect: DialectName | None, process_s: float) -> Headers:
    """The headers of a 200 whose body comes in chunks; `process_s` is the time to its first chunk."""
    headers = [(b"content-type", b"text/event-stream")]
    if dialect == "legacy":
        headers += legacy.reply_headers(200, "Success", process_s)
    return headers


def refusal(
    dialect: DialectName | None, refused: Refusal, process_s: float, *, close: bool = False,
    retry_status: int = UNAVAILABLE,
) -> Answer:  # fmt: skip
    """An error as ``{"message": ...}``: short, ASCII, of constant shape; bt headers for legacy callers only.

    A btauth caller that sees a bt header on a 500 would fall back to legacy for good. `retry_status` is what a legacy
    caller is told in place of 503.
    """
    status, message = refused.status, plain(refused.message)
    if dialect == "legacy" and status == UNAVAILABLE:
        status = retry_status
    body = msgspec.json.encode({"message": message})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.retry_after is not None:
        headers.append((b"retry-after", str(refused.retry_after).encode()))
    if status == 405:
        headers.append((b"allow", b"POST"))
    if close or status in _CLOSES:
        headers.append((b"connection", b"close"))
    if dialect == "legacy":
        headers += legacy.reply_headers(status, message, process_s)
    return Answer(status, headers, body)


def plain(text: str) -> str:
    """Text that is safe in a header: one line of printable ASCII, at most 200 characters."""
    kept = text.encode("ascii", "replace").decode("ascii")[:_MAX_MESSAGE]
    return "".join(char if char.isprintable() else " " for char in kept)
