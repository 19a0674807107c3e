"""What a request's headers claim, and which dialect they claim it in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from serving.errors import Refusal
from serving.types import Hotkey, NonceNs, Seconds
from serving.wire.head import Head

DialectName = Literal["legacy", "btauth", "epistula"]

LEGACY_SIGN = b"bt_header_dendrite_signature"
BTAUTH_SIGN = b"x-bittensor-signature"
EPISTULA_SIGN = b"epistula-request-signature"
EPISTULA_SIGNS = (EPISTULA_SIGN, b"body-signature", b"x-epistula-signature")

_RECEIVERS: dict[DialectName, bytes] = {
    "legacy": b"bt_header_axon_hotkey",
    "btauth": b"x-bittensor-receiver",
    "epistula": b"epistula-signed-for",
}


class Hashed(Protocol):
    """What a legacy body hash needs of a route; `serving.subnets.base.Route` has it."""

    @property
    def hash_fields(self) -> Sequence[str]:
        """Fields under the hash, in declared order: how SDK 8 to 10 hashes them."""
        ...

    @property
    def model_order(self) -> Sequence[str]:
        """The same fields in the order of the model: how SDK 6 and 7 hashes them."""
        ...

    @property
    def monotonic_nonces(self) -> bool:
        """Whether callers before SDK 7.2, whose nonces are no times, may call."""
        ...

    def hashed_values(self, body: dict[str, Any]) -> list[Any]:
        """Their typed Python values."""
        ...


class Claim(Protocol):
    """The sender and the proof that a request's headers name; nothing is believed before it was checked."""

    @property
    def dialect(self) -> DialectName:
        """How to speak to this caller."""
        ...

    @property
    def hotkey(self) -> Hotkey:
        """The claimed sender, as spelt."""
        ...

    @property
    def nonce(self) -> NonceNs:
        """Unix nanoseconds at which the request was signed."""
        ...

    @property
    def timeout(self) -> Seconds | None:
        """How long the caller waits, where the dialect says."""
        ...

    def check_fresh(self, now_ns: int, max_timeout: Seconds) -> None:
        """Raise Refusal (401) unless the nonce lies in the dialect's window around `now_ns`."""
        ...

    def check_signature(self, head: Head, body: bytes) -> None:
        """Raise Refusal (401) unless the claimed sender signed this request for us."""
        ...

    def check_body(self, route: Hashed, content: dict[str, Any]) -> None:
        """Raise Refusal (401) unless the decoded body is the one that was signed, as far as the dialect signs it."""
        ...


ReadClaim = Callable[[Head, Hotkey], Claim]
"""The claim of a head towards our own hotkey; raises Refusal 400 or 401 on its shape."""


def dialect_of(head: Head) -> DialectName:
    """The dialect by the signature header that is there; raises Refusal 400 for a mixture, 401 for none."""
    fields = head.fields
    legacy, btauth = LEGACY_SIGN in fields, BTAUTH_SIGN in fields
    epistula = any(name in fields for name in EPISTULA_SIGNS)
    if legacy + btauth + epistula > 1:
        raise Refusal(400, "mixed_dialects", "signature headers of two dialects in one request")
    if legacy:
        return "legacy"
    if btauth:
        return "btauth"
    if epistula:
        raise Refusal(401, "dialect_off", "Epistula is not spoken here")
    raise Refusal(401, "unsigned", "the request is not signed")


def receiver_named(dialect: DialectName, head: Head) -> str | None:
    """The hotkey that a request says it is for, None when it names none; unverified, good for choosing a miner only.

    A signature is checked with our own hotkey as receiver, whatever stands here. Raises Refusal (400) when it is no
    ASCII text.
    """
    return head.text(_RECEIVERS[dialect])
