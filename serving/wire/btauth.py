"""btauth/1, the dialect of SDK 11: eight signed lines over method, target, body, nonce, sender and receiver.

Stricter than the SDK where it is lenient: one spelling of nonce, signature and scheme, and a receiver always.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from serving.errors import Refusal
from serving.types import Hotkey, NonceNs, Seconds
from serving.wire import shape
from serving.wire.claim import BTAUTH_SIGN, DialectName, Rules, check_age
from serving.wire.head import Head
from serving.wire.keys import PublicKey, is_scheme, signed_by

if TYPE_CHECKING:
    from serving.nonces.store import ReplayStore

BEHIND_NS = 10_000_000_000
AHEAD_NS = 2_000_000_000
"""The window is closed at both ends."""

SchemeOf = Callable[[Hotkey], str | None]
"""The one scheme that a hotkey may use, from our own configuration; None takes the one it declares."""


def as_declared(hotkey: Hotkey) -> str | None:
    """No hotkey is pinned to a scheme."""
    return None


def message(
    *, scheme: str, method: str, target: bytes, body: bytes, nonce: int, sender: str, receiver: str | None
) -> bytes:
    """The bytes that a sender signs; `target` is path and query as they go over the wire."""
    before = f"btauth/1\n{scheme}\n{method.upper()}\n"
    behind = f"\n{sha256(body).hexdigest()}\n{nonce}\n{sender}\n{receiver or '-'}"
    return before.encode() + target + behind.encode()


class BtauthClaim(msgspec.Struct, frozen=True, gc=False):
    """What a btauth request's headers claim."""

    dialect: ClassVar[DialectName] = "btauth"
    timeout: ClassVar[Seconds | None] = None

    hotkey: Hotkey
    receiver: Hotkey
    nonce: NonceNs
    scheme: str
    signature: bytes

    @property
    def signed_at(self) -> int:
        """The nonce."""
        return self.nonce

    def check_fresh(self, now_ns: int, route: Rules) -> None:
        """10 s back, 2 s ahead, both ends included."""
        check_age(now_ns - self.nonce, behind_ns=BEHIND_NS, ahead_ns=AHEAD_NS)

    def check_signature(self, head: Head, body: bytes) -> None:
        """The declared scheme only, over the raw bytes as they arrived."""
        signed = message(
            scheme=self.scheme, method=head.method, target=head.target, body=body, nonce=self.nonce,
            sender=self.hotkey, receiver=self.receiver,
        )  # fmt: skip
        if not signed_by(self.hotkey, signed, self.signature, self.scheme):
            raise Refusal(401, "bad_signature", "the signature does not fit this request")

    async def spend(self, store: ReplayStore, sender: PublicKey, receiver: PublicKey, now_ns: int) -> None:
        """The nonce, once for each sender and receiver."""
        await store.spend(sender, receiver, self.nonce, now_ns)

    def check_body(self, route: Rules, content: dict[str, Any]) -> None:
        """Nothing left to check: the signature covers every byte."""

    def covers(self, route: Rules) -> bool:
        """Every byte."""
        return True


def read_claim(head: Head, receiver: Hotkey, scheme_of: SchemeOf = as_declared) -> BtauthClaim:
    """The claim in btauth headers; raises Refusal 400 or 401 on their shape, or for another receiver."""
    if shape.need(head, b"x-bittensor-version") != "1":
        raise Refusal(400, "bad_version", "x-bittensor-version is not 1")
    hotkey = shape.hotkey(head, b"x-bittensor-hotkey")
    nonce = shape.nonce(head, b"x-bittensor-nonce")
    scheme = head.text(b"x-bittensor-crypto")
    scheme = "sr25519" if scheme is None else scheme
    if not is_scheme(scheme):
        raise Refusal(401, "unknown_scheme", "x-bittensor-crypto names no scheme that is spoken here")
    signature = shape.signature(head, BTAUTH_SIGN)
    if head.text(b"x-bittensor-receiver") != receiver:
        raise Refusal(401, "wrong_receiver", "the request was not signed for this hotkey")
    if scheme_of(hotkey) not in (None, scheme):
        raise Refusal(401, "wrong_scheme", "this hotkey signs under another scheme")
    return BtauthClaim(hotkey=hotkey, receiver=receiver, nonce=nonce, scheme=scheme, signature=signature)
