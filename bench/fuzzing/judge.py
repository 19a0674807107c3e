"""What a reply must be, judged without any of serving's code; above all, that each 200 was earned by a signature."""

from __future__ import annotations

import json
import time
from hashlib import sha3_256, sha256
from typing import Any, NamedTuple

import bittensor_core

from bench.fuzzing.bodies import hashed_values
from bench.stand import Wire
from bench.stand.stand import MINER, VALIDATORS, hotkey

_REFUSALS = frozenset({400, 401, 403, 404, 405, 408, 413, 415, 417, 429, 431, 503, 505})
"""503 by the gateway's own rules; 505 is about the caller's version of HTTP."""
_LATER = frozenset({422, 429, 503})
_LONGEST_REFUSAL = 700
_WINDOW_NS = 700 * 10**9
_SIGNATURES = (b"bt_header_dendrite_signature", b"x-bittensor-signature")


class Reply(NamedTuple):
    """One reply as it came."""

    status: int
    headers: dict[bytes, bytes]
    """Names in lower case."""
    body: bytes
    size: int
    """Bytes of head and body."""
    bodyless: bool = False
    """The answer to a HEAD."""


class Judge:
    """Finds what is wrong with a reply; remembers what was accepted, for no nonce may serve twice."""

    def __init__(self) -> None:
        self._miner = hotkey(MINER)
        self._keys = {
            str(pair.ss58_address).encode(): pair for pair in map(bittensor_core.Keypair.create_from_uri, VALIDATORS)
        }
        self._accepted: set[tuple[bytes, bytes]] = set()

    def fault(self, reply: Reply, sent: bytes, wire: Wire | None, *, good: bool) -> str | None:
        """What is wrong, or None; `wire` is the request where it is known, else `sent` is read as one."""
        fault = self._form(reply, sent if wire is None else wire.raw())
        if fault is not None:
            return fault
        if reply.status == 200:
            wire = wire or as_wire(sent)
            return "a 200 for no request" if wire is None else self._earned(wire)
        if good and reply.status not in _LATER:
            return f"a good request was answered {reply.status}"
        return None

    def _form(self, reply: Reply, sent: bytes) -> str | None:
        """The shape that every reply has."""
        marked = reply.headers.get(b"bt_header_axon_status_code")
        for_itsai = reply.status == 422 and marked is not None and b"/TextSynapse" in sent  # its word for 503
        if reply.status != 200 and reply.status not in _REFUSALS and not for_itsai:
            return f"status {reply.status}"
        if reply.headers.get(b"content-type") != b"application/json":
            return "not application/json"
        if marked not in (None, b"%d" % reply.status) or (marked is not None and b"bt_header_" not in sent.lower()):
            return "bt headers do not fit the dialect or the status"
        if reply.status == 200:
            fits = (marked is not None) == (_SIGNATURES[0] in sent.lower())
            return None if fits else "bt headers do not fit the dialect"
        if reply.status in _LATER and not reply.headers.get(b"retry-after", b"").isdigit():
            return f"{reply.status} without Retry-After"
        return None if reply.bodyless else _message_fault(reply)

    def _earned(self, wire: Wire) -> str | None:
        """Why a request should not have been answered 200."""
        named: dict[bytes, list[bytes]] = {}
        for name, value in wire.headers:
            named.setdefault(name.lower(), []).append(value.strip(b" \t"))
        if any(
            len(values) > 1 for name, values in named.items() if name.startswith((b"bt_header_den", b"x-bittensor"))
        ):
            return "a 200 with an auth header twice"
        fields = {name: values[-1] for name, values in named.items()}
        if not wire.line.startswith((b"POST /", b"POST http://")) or sum(name in fields for name in _SIGNATURES) != 1:
            return "a 200 without POST and one signature"
        legacy = _SIGNATURES[0] in fields
        sender = fields.get(b"bt_header_dendrite_hotkey" if legacy else b"x-bittensor-hotkey", b"")
        nonce = fields.get(b"bt_header_dendrite_nonce" if legacy else b"x-bittensor-nonce", b"")
        if sender not in self._keys or not nonce.isdigit() or abs(time.time_ns() - int(nonce)) > _WINDOW_NS:
            return "a 200 for an unknown sender or a stale nonce"
        if (sender, nonce) in self._accepted:
            return "a nonce was accepted twice"
        self._accepted.add((sender, nonce))
        return self._signed(wire, fields, sender, nonce)

    def _signed(self, wire: Wire, fields: dict[bytes, bytes], sender: bytes, nonce: bytes) -> str | None:
        """What is wrong with the signature."""
        legacy = _SIGNATURES[0] in fields
        body = dechunked(wire.body) if b"transfer-encoding" in fields else wire.body
        try:
            message = (
                self._legacy(wire, fields, nonce, sender, body) if legacy else self._btauth(wire, nonce, sender, body)
            )
        except (ValueError, RecursionError) as error:
            return f"a 200 for a body that cannot be read ({type(error).__name__})"
        signature = bytes.fromhex(fields[_SIGNATURES[0] if legacy else _SIGNATURES[1]][2:].decode("ascii", "replace"))
        if message is None or not self._keys[sender].verify(message, signature):
            return "a 200 without a good signature"
        return None

    def _legacy(self, wire: Wire, fields: dict[bytes, bytes], nonce: bytes, sender: bytes, body: bytes) -> bytes | None:
        """What should have been signed; None when the body is not the hashed one."""
        values = hashed_values(_synapse(wire), json.loads(body))
        digests = "".join(sha3_256(str(value).encode()).hexdigest() for value in values)
        computed = sha3_256(digests.encode()).hexdigest().encode()
        if computed != fields.get(b"computed_body_hash"):
            return None
        uuid = fields.get(b"bt_header_dendrite_uuid", b"None")
        return b".".join((nonce, sender, self._miner.encode(), uuid, computed))

    def _btauth(self, wire: Wire, nonce: bytes, sender: bytes, body: bytes) -> bytes:
        target, digest = wire.line.split(b" ")[1], sha256(body).hexdigest().encode()
        return b"\n".join((b"btauth/1", b"sr25519", b"POST", target, digest, nonce, sender, self._miner.encode()))


def _synapse(wire: Wire) -> str:
    """What a target names; a server must take the absolute form too (RFC 9112, 3.2.2)."""
    target = wire.line.split(b" ")[1].partition(b"?")[0].partition(b"#")[0]
    return target.removeprefix(b"http://x").removeprefix(b"/").decode("ascii", "replace")


def _message_fault(reply: Reply) -> str | None:
    if reply.size > _LONGEST_REFUSAL:
        return "a long refusal"
    try:
        body: Any = json.loads(reply.body)
    except ValueError:
        return "a refusal that is not JSON"
    message = body.get("message") if isinstance(body, dict) and len(body) == 1 else None
    if not isinstance(message, str) or not message.isascii() or not message.isprintable() or len(message) > 200:
        return "a refusal without a plain message"
    return None


def as_wire(sent: bytes) -> Wire | None:
    """The first request in bytes, read as loosely as a server may."""
    head, end, rest = sent.lstrip(b"\r\n").partition(b"\r\n\r\n")
    if not end:
        return None
    line, *lines = head.split(b"\r\n")
    line = b" ".join(line.split())  # blanks too many are passed over by some servers
    headers = tuple((name, value.strip(b" \t")) for name, _, value in (each.partition(b":") for each in lines))
    length = next((value for name, value in headers if name.lower() == b"content-length"), None)
    return Wire(line, headers, rest if length is None or not length.isdigit() else rest[: int(length)])


def dechunked(body: bytes) -> bytes:
    """The content of a chunked body; raises ValueError."""
    content = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        if length == 0:
            return content
        content, body = content + body[:length], body[length + 2 :]
