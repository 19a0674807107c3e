"""The dialect of SDK 6 to 10: signed ``bt_header_*`` headers around a Synapse as JSON.

The signature covers nonce, sender, receiver, uuid and the body hash; the body hash covers a route's hash fields, after
typing. Everything else (timeout, version, ``input_obj`` headers, the body's own copies of the terminals) is
unsigned and believed only inside fixed bounds, or ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from hashlib import sha3_256
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from serving.errors import Refusal
from serving.types import Hotkey, NonceNs, Seconds
from serving.wire import shape
from serving.wire.claim import LEGACY_SIGN, DialectName, Rules, check_age
from serving.wire.head import Head
from serving.wire.keys import PublicKey, signed_by

if TYPE_CHECKING:
    from serving.nonces.store import ReplayStore

BEHIND_S = 4.0
"""Seconds that a request may be old beside its timeout, as every SDK since 7.2 has it."""
AHEAD_S = 4.0
"""Seconds that a caller's clock may be ahead of ours."""
FIRST_TIME_NS = 10**18
"""Nonces below are no times: 10^18 ns of unix time were over in 2001, and a monotonic clock gets there in 31 years."""
FIRST_VERSION_WITH_TIMES = 7_002_000
_VERSION = re.compile(r"[0-9]{1,9}")
_BODY_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_UUID = 64


def body_hash(values: Sequence[Any]) -> str:
    """sha3-256 over the hex sha3-256 of each value's Python text, as the SDK hashes typed fields.

    Raises UnicodeEncodeError for text with lone surrogates.
    """
    return _joined([_digest(value) for value in values])


def _digest(value: Any) -> str:
    return sha3_256(str(value).encode()).hexdigest()


def _joined(digests: Sequence[str]) -> str:
    return sha3_256("".join(digests).encode()).hexdigest()


class LegacyClaim(msgspec.Struct, frozen=True, gc=False):
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
    monotonic: bool = False
    """Whether the nonce is a monotonic clock: it is no time, and the caller says that it runs an SDK before 7.2.

    The version header is unsigned, the nonce is signed; so a nonce that is a time is judged as one whatever the
    version says, and stripping or lowering the version makes nothing of a captured request.
    """

    @property
    def signed_at(self) -> int | None:
        """The nonce, where it is a time."""
        return None if self.monotonic else self.nonce

    def check_fresh(self, now_ns: int, route: Rules) -> None:
        """4 s and the caller's timeout back, as far as the route allows one; 4 s ahead.

        The timeout is unsigned: whoever raises it gains nothing, because the replay store remembers nonces for
        longer than the route's widest window. A monotonic nonce has no window; on a route that takes one, `spend`
        judges it, and elsewhere it is stale.
        """
        if self.monotonic and route.monotonic_nonces:
            return
        allowed = BEHIND_S + min(self.timeout or 0.0, route.max_timeout)
        check_age(now_ns - self.nonce, behind_ns=int(allowed * 1e9), ahead_ns=int(AHEAD_S * 1e9))

    def message(self) -> bytes:
        """The bytes that the sender signed."""
        return f"{self.nonce}.{self.hotkey}.{self.receiver}.{self.uuid}.{self.body_hash}".encode()

    def check_signature(self, head: Head, body: bytes) -> None:
        """sr25519 over the message, with our own hotkey as receiver."""
        if not signed_by(self.hotkey, self.message(), self.signature):
            raise Refusal(401, "bad_signature", "the signature does not fit this sender, receiver, nonce and body hash")

    async def spend(self, store: ReplayStore, sender: PublicKey, receiver: PublicKey, now_ns: int) -> None:
        """A time once for each sender and receiver; a monotonic nonce only above the last of its uuid."""
        if self.monotonic:
            await store.advance(sender, receiver, self.uuid, self.nonce)
        else:
            await store.spend(sender, receiver, self.nonce, now_ns)

    def check_body(self, route: Rules, content: dict[str, Any]) -> None:
        """The signed hash against one recomputed from the typed values, in declared order or in that of the model."""
        declared = route.hash_fields
        try:
            digests = [_digest(value) for value in route.hashed_values(content)] if declared else []
        except UnicodeEncodeError:
            raise Refusal(400, "bad_text", "the body holds text that is not Unicode") from None
        if _joined(digests) == self.body_hash:
            return
        if tuple(route.model_order) != tuple(declared):
            by_name = dict(zip(declared, digests, strict=True))
            if _joined([by_name[name] for name in route.model_order]) == self.body_hash:
                return
        raise Refusal(401, "body_hash", "the body is not the one that was signed")

    def covers(self, route: Rules) -> bool:
        """Where the route hashes fields at all: those are its inputs."""
        return bool(route.hash_fields)


def read_claim(head: Head, receiver: Hotkey) -> LegacyClaim:
    """The claim in legacy headers; raises Refusal 400 or 401 on their shape."""
    uuid = head.text(b"bt_header_dendrite_uuid")
    if uuid is not None and (len(uuid) > _MAX_UUID or not uuid.isprintable()):
        raise Refusal(400, "bad_uuid", "bt_header_dendrite_uuid is longer than 64 characters or not printable")
    nonce = shape.nonce(head, b"bt_header_dendrite_nonce")
    signed_hash = shape.need(head, b"computed_body_hash")
    if not _BODY_HASH.fullmatch(signed_hash):
        raise Refusal(400, "bad_body_hash", "computed_body_hash is not 64 lower-case hex digits")
    return LegacyClaim(
        hotkey=shape.hotkey(head, b"bt_header_dendrite_hotkey"),
        receiver=receiver,
        nonce=nonce,
        uuid="None" if uuid is None else uuid,
        body_hash=signed_hash,
        signature=shape.signature(head, LEGACY_SIGN),
        timeout=_timeout(head),
        monotonic=nonce < FIRST_TIME_NS and _before_times(head),
    )


def _before_times(head: Head) -> bool:
    """Whether the caller says, or leaves open, that its SDK is older than 7.2."""
    text = head.text(b"bt_header_dendrite_version")
    return text is None or (_VERSION.fullmatch(text) is not None and int(text) < FIRST_VERSION_WITH_TIMES)


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
