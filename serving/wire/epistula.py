"""Epistula version 2: sha256 of the body, a uuid, a time in milliseconds and the receiver under one signature.

Neither method nor path is signed. What deployments of it leave open is closed here: the receiver must be named and be
us, a time ahead of ours is bounded, and each (uuid, time) of a sender works once. The ``Epistula-Secret-Signature-*``
headers are not looked at: they exist for filters in front of a server, and clients do not agree on them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

from serving.errors import Refusal
from serving.types import Hotkey, NonceNs, Seconds
from serving.wire import shape
from serving.wire.claim import EPISTULA_SIGN, DialectName, Rules, check_age
from serving.wire.head import Head
from serving.wire.keys import PublicKey, signed_by

if TYPE_CHECKING:
    from serving.nonces.store import ReplayStore

BEHIND_NS = 8_000_000_000
"""What most receivers in the field allow, so that a caller that works elsewhere works here."""
AHEAD_NS = 2_000_000_000
"""As in btauth: more than honest clocks differ by. Most receivers have no bound, and a captured request stays good."""
_MILLISECONDS = re.compile(r"[1-9][0-9]{0,12}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def message(*, body: bytes, uuid: str, timestamp: str, receiver: str) -> bytes:
    """The bytes that a sender signs; `timestamp` is the header's text."""
    return f"{sha256(body).hexdigest()}.{uuid}.{timestamp}.{receiver}".encode()


@dataclass(frozen=True, slots=True)
class EpistulaClaim:
    """What an Epistula request's headers claim."""

    dialect: ClassVar[DialectName] = "epistula"
    timeout: ClassVar[Seconds | None] = None

    hotkey: Hotkey
    receiver: Hotkey
    timestamp: str
    """Unix milliseconds, in its one spelling."""
    uuid: str
    signature: bytes

    @property
    def signed_at(self) -> NonceNs:
        """The timestamp, in nanoseconds."""
        return NonceNs(int(self.timestamp) * 1_000_000)

    def check_fresh(self, now_ns: int, route: Rules) -> None:
        """8 s back, 2 s ahead, both ends included."""
        check_age(now_ns - self.signed_at, behind_ns=BEHIND_NS, ahead_ns=AHEAD_NS)

    def check_signature(self, head: Head, body: bytes) -> None:
        """sr25519 over the raw body's hash, uuid, time, and our own hotkey."""
        signed = message(body=body, uuid=self.uuid, timestamp=self.timestamp, receiver=self.receiver)
        if not signed_by(self.hotkey, signed, self.signature):
            raise Refusal(401, "bad_signature", "the signature does not fit this request")

    async def spend(self, store: ReplayStore, sender: PublicKey, receiver: PublicKey, now_ns: int) -> None:
        """Each (sender, receiver, uuid, time) once.

        The store knows senders and times. A millisecond holds several requests of one sender, so the uuid goes into
        the sender's place: a hash of both, which no other pair has, and the store still expires by time.
        """
        name = sha256(b"epistula\0" + sender + self.uuid.lower().encode()).digest()
        await store.spend(PublicKey(name), receiver, self.signed_at, now_ns)

    def check_body(self, route: Rules, content: dict[str, Any]) -> None:
        """Nothing left to check: the signature covers every byte."""

    def covers(self, route: Rules) -> bool:
        """Every byte."""
        return True


def read_claim(head: Head, receiver: Hotkey) -> EpistulaClaim:
    """The claim in Epistula headers; raises Refusal 400 or 401 on their shape, or for another receiver."""
    if shape.need(head, b"epistula-version") != "2":
        raise Refusal(400, "bad_version", "epistula-version is not 2")
    timestamp = shape.need(head, b"epistula-timestamp")
    if not _MILLISECONDS.fullmatch(timestamp) or (len(timestamp) == 13 and timestamp > "9223372036854"):
        raise Refusal(400, "bad_nonce", "epistula-timestamp is not a decimal number of milliseconds")
    uuid = shape.need(head, b"epistula-uuid")
    if not _UUID.fullmatch(uuid):
        raise Refusal(400, "bad_uuid", "epistula-uuid is not a uuid")
    if head.text(b"epistula-signed-for") != receiver:
        raise Refusal(401, "wrong_receiver", "the request was not signed for this hotkey")
    return EpistulaClaim(
        hotkey=shape.hotkey(head, b"epistula-signed-by"),
        receiver=receiver,
        timestamp=timestamp,
        uuid=uuid,
        signature=shape.signature(head, EPISTULA_SIGN),
    )
