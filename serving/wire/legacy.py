"""The dialect of SDK 6 to 10: signed ``bt_header_*`` headers around a Synapse as JSON.

The signature covers nonce, sender, receiver, uuid and the body hash; the body hash covers a route's hash fields, after
typing. Everything else (timeout, version, ``input_obj`` headers, the body's own copies of the terminals) is
unsigned and believed only inside fixed bounds, or ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha3_256
from typing import Any, ClassVar

from serving.errors import Refusal
from serving.types import Hotkey, NonceNs, Seconds
from serving.wire import shape
from serving.wire.claim import LEGACY_SIGN, DialectName, Hashed
from serving.wire.head import Head
from serving.wire.keys import signed_by

BEHIND_S = 4.0
"""Seconds that a request may be old beside its timeout, as every SDK since 7.2 has it."""
AHEAD_S = 4.0
"""Seconds that a caller's clock may be ahead of ours."""
_BODY_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_UUID = 64


def body_hash(values: Sequence[Any]) -> str:
    """sha3-256 over the hex sha3-256 of each value's Python text, as the SDK hashes typed fields.

    Raises UnicodeEncodeError for text with lone surrogates.
    """
    digests = "".join(sha3_256(str(value).encode()).hexdigest() for value in values)
    return sha3_256(digests.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class LegacyClaim:
    """What a legacy request's headers claim."""

    dialect: ClassVar[DialectName] = "legacy"

    hotkey: Hotkey
    receiver: Hotkey
    """Ours, whatever the request names."""
    nonce: NonceNs
    uuid: str
    body_hash: str
    signature: bytes
    timeout: Seconds | None

    def check_fresh(self, now_ns: int, max_timeout: Seconds) -> None:
        """4 s and the caller's timeout back, as far as the route allows one; 4 s ahead.

        The timeout is unsigned: whoever raises it gains nothing, because the replay store remembers nonces for
        longer than the route's widest window.
        """
        allowed = BEHIND_S + min(self.timeout or 0.0, max_timeout)
        age_ns = now_ns - self.nonce
        if age_ns > int(allowed * 1e9):
            raise Refusal(401, "stale", f"the request is {age_ns / 1e9:.2f} s old, {allowed:.2f} s are allowed")
        if -age_ns > int(AHEAD_S * 1e9):
            raise Refusal(401, "future", f"the nonce is {-age_ns / 1e9:.2f} s ahead, {AHEAD_S:.2f} s are allowed")

    def message(self) -> bytes:
        """The bytes that the sender signed."""
        return f"{self.nonce}.{self.hotkey}.{self.receiver}.{self.uuid}.{self.body_hash}".encode()

    def check_signature(self, head: Head, body: bytes) -> None:
        """sr25519 over the message, with our own hotkey as receiver."""
        if not signed_by(self.hotkey, self.message(), self.signature):
            raise Refusal(401, "bad_signature", "the signature does not fit this sender, receiver, nonce and body hash")

    def check_body(self, route: Hashed, content: dict[str, Any]) -> None:
        """The signed hash against one recomputed from the typed values of the route's hash fields."""
        try:
            found = body_hash(route.hashed_values(content) if route.hash_fields else ())
        except UnicodeEncodeError:
            raise Refusal(400, "bad_text", "the body holds text that is not Unicode") from None
        if found != self.body_hash:
            raise Refusal(401, "body_hash", "the body is not the one that was signed")


def read_claim(head: Head, receiver: Hotkey) -> LegacyClaim:
    """The claim in legacy headers; raises Refusal 400 or 401 on their shape."""
    uuid = head.text(b"bt_header_dendrite_uuid")
    if uuid is not None and (len(uuid) > _MAX_UUID or not uuid.isprintable()):
        raise Refusal(400, "bad_uuid", "bt_header_dendrite_uuid is longer than 64 characters or not printable")
    signed_hash = shape.need(head, b"computed_body_hash")
    if not _BODY_HASH.fullmatch(signed_hash):
        raise Refusal(400, "bad_body_hash", "computed_body_hash is not 64 lower-case hex digits")
    return LegacyClaim(
        hotkey=shape.hotkey(head, b"bt_header_dendrite_hotkey"),
        receiver=receiver,
        nonce=shape.nonce(head, b"bt_header_dendrite_nonce"),
        uuid="None" if uuid is None else uuid,
        body_hash=signed_hash,
        signature=shape.signature(head, LEGACY_SIGN),
        timeout=_timeout(head),
    )


def _timeout(head: Head) -> Seconds | None:
    """The caller's timeout from the header, never from the body; None when it names none."""
    text = head.text(b"timeout")
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value) or value < 0:
        raise Refusal(400, "bad_timeout", "the timeout header is not a number of seconds")
    return Seconds(value) if value else None


def reply_headers(status: int, message: str, process_s: float) -> list[tuple[bytes, bytes]]:
    """What every reply to a Dendrite carries; without the status on a 200 the work would be lost."""
    return [
        (b"bt_header_axon_status_code", str(status).encode()),
        (b"bt_header_axon_status_message", message.encode("ascii", "replace")),
        (b"bt_header_axon_process_time", f"{process_s:.6f}".encode()),
    ]
