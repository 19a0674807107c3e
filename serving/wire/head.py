"""The head of a request: bounded, without duplicates where they would matter, and otherwise as sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import msgspec

from serving.errors import Refusal

MAX_FIELDS = 100
MAX_BYTES = 16 * 1024

_GUARDED = (b"bt_header_", b"x-bittensor-", b"epistula-", b"x-epistula-", b"body-signature")
_GUARDED_NAMES = frozenset(
    {
        b"timeout", b"computed_body_hash", b"name", b"host", b"content-length", b"content-type",
        b"content-encoding", b"transfer-encoding", b"total_size", b"header_size",
    }
)  # fmt: skip
_FRAMING = frozenset({b"transfer-encoding", b"upgrade", b"expect"})


class Head(msgspec.Struct, frozen=True):
    """What stands before the body."""

    method: str
    path: bytes
    """As sent, percent-encoded, without the query."""
    target: bytes
    """Path and query as sent: what btauth signs."""
    fields: Mapping[bytes, bytes]
    """By lower-case name."""

    def text(self, name: bytes) -> str | None:
        """A field as ASCII text, None when absent; raises Refusal (400) when it holds anything else."""
        value = self.fields.get(name)
        if value is None:
            return None
        try:
            return value.decode("ascii")
        except UnicodeDecodeError:
            raise Refusal(400, "header_not_ascii", "a header holds something other than ASCII") from None


def read_head(scope: Mapping[str, Any]) -> Head:
    """The head of an ASGI scope; raises Refusal 431 (too much of it) or 400 (duplicates)."""
    listed: list[tuple[bytes, bytes]] = scope["headers"]
    if len(listed) > MAX_FIELDS:
        raise Refusal(431, "too_many_headers", f"more than {MAX_FIELDS} headers")
    if sum(map(len, chain.from_iterable(listed))) > MAX_BYTES:
        raise Refusal(431, "headers_too_large", f"more than {MAX_BYTES} bytes of headers")
    fields = dict(listed)
    if len(fields) != len(listed):
        _refuse_duplicates(listed)
    path = scope["raw_path"]
    query = scope["query_string"]
    target = scope.get("headframe.target") or (path + b"?" + query if query else path)
    return Head(scope["method"], path, target, fields)


def check_framing(version: str, target: bytes, listed: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise Refusal (400, 417, 505) for what a proxy before us may read in another way than we do.

    After it nothing that came over the same connection can be trusted to begin where it seems to.
    """
    if version not in ("1.1", "1.0"):
        raise Refusal(505, "http_version", "only HTTP/1.1 and 1.0 are spoken here")
    if not target.startswith(b"/"):
        raise Refusal(400, "bad_target", "the request target is not a path")
    if _FRAMING.isdisjoint(map(itemgetter(0), listed)):
        return
    for name, value in listed:
        if name == b"transfer-encoding" and (value.lower() != b"chunked" or version == "1.0"):
            raise Refusal(400, "bad_transfer_encoding", "a transfer-encoding other than chunked is not accepted")
        if name == b"upgrade":
            raise Refusal(400, "upgrade", "no other protocol is spoken here")
        if name == b"expect" and value.lower() != b"100-continue":
            raise Refusal(417, "expectation", "no expectation but 100-continue is met here")


def _refuse_duplicates(listed: list[tuple[bytes, bytes]]) -> None:
    seen: set[bytes] = set()
    for name, _ in listed:
        if name in seen and (name in _GUARDED_NAMES or name.startswith(_GUARDED)):
            raise Refusal(400, "duplicate_header", "a header that may be there once is there twice")
        seen.add(name)
