"""The body: bounded in size and time while it comes in, and one strict reading of JSON once it is here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NoReturn

import msgspec

from serving.errors import Refusal

READ_DEADLINE_S = 30.0
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class HungUp(Exception):
    """The caller closed the connection; there is nobody to answer."""


async def read_body(
    receive: Receive, fields: Mapping[bytes, bytes], limit: int, deadline_s: float = READ_DEADLINE_S, *,
    arrived: Callable[[], bytes | None] | None = None, hold: Callable[[int], None] = lambda size: None,
) -> bytes:  # fmt: skip
    """The whole body; raises Refusal 413 (longer than `limit` bytes), 408 (slow), 415 (compressed), or HungUp.

    `arrived` gives the body if all of it is here already, as it mostly is; then no clock is set. `hold` is told how
    many bytes there are by now, and may raise a Refusal.
    """
    if fields.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refusal(415, "compressed", "compressed bodies are not accepted")
    declared = fields.get(b"content-length")
    if declared is not None and (len(declared) > 12 or not declared.isdigit() or int(declared) > limit):
        raise Refusal(413, "body_too_large", f"the body is longer than {limit} bytes")
    whole = arrived() if arrived is not None else None
    if whole is not None:
        return _within(whole, limit, hold)
    try:
        async with asyncio.timeout(deadline_s):
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                return _within(message.get("body", b""), limit, hold)
            parts = bytearray()
            while message["type"] == "http.request":
                parts += message.get("body", b"")
                _within(parts, limit, hold)
                if not message.get("more_body"):
                    return bytes(parts)
                message = await receive()
    except TimeoutError:
        raise Refusal(408, "slow_body", f"the body did not arrive in {deadline_s:.0f} s") from None
    raise HungUp


def _within(body: bytes | bytearray, limit: int, hold: Callable[[int], None]) -> bytes:
    if len(body) > limit:
        raise Refusal(413, "body_too_large", f"the body is longer than {limit} bytes")
    hold(len(body))
    return body  # type: ignore[return-value]  # the caller copies a bytearray when it is whole


def decode(body: bytes) -> dict[str, Any]:
    """A JSON object, read strictly; raises Refusal (400).

    The values are those of Python's own reader, because legacy hashes are over them; refused are NaN and infinities,
    duplicate keys, lone surrogates, too deep a nesting, and anything but an object at the top. What msgspec finds
    nothing wrong with can only have a key twice, and not even that where no colon is left over when each member has
    had one; the rest is read again with a hook for each number, to say what is wrong.
    """
    try:
        value = _judge(body)
        if not isinstance(value, dict) or len(value) != body.count(b":"):
            value = _quick.decode(body.decode("utf-8"))
    except (ValueError, RecursionError):
        value = _strictly(body)
    if not isinstance(value, dict):
        raise Refusal(400, "not_an_object", "the body is not a JSON object")
    return value


def _strictly(body: bytes) -> Any:
    try:
        text = body.decode("utf-8")
        value = _decoder.decode(text)
        if "\\u" in text and "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise Refusal(400, "bad_text", "the body holds text that is not Unicode") from None
    except RecursionError:
        raise Refusal(400, "too_deep", "the body is nested too deeply") from None
    except ValueError:
        raise Refusal(400, "bad_json", "the body is not JSON") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Refusal(400, "duplicate_key", "an object of the body has a key twice")
    return members


def _constant(name: str) -> NoReturn:
    raise Refusal(400, "not_finite", "the body holds a number that is not finite")


def _number(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        _constant(text)
    return value


_judge = msgspec.json.Decoder().decode
_quick = json.JSONDecoder(object_pairs_hook=_object)
_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_number)
