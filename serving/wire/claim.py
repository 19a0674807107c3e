"""What a request's headers claim, and which dialect they claim it in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from serving.errors import Refusal
from serving.types import Hotkey, Seconds
from serving.wire.head import Head
from serving.wire.keys import PublicKey

if TYPE_CHECKING:
    from serving.nonces.store import ReplayStore

DialectName = Literal["legacy", "btauth", "epistula"]

LEGACY_SIGN = b"bt_header_dendrite_signature"
BTAUTH_SIGN = b"x-bittensor-signature"
EPISTULA_SIGN = b"epistula-request-signature"
SENDERS = frozenset({b"bt_header_dendrite_hotkey", b"x-bittensor-hotkey", b"epistula-signed-by"})
"""Headers that name the sender, one a dialect."""

_OTHERS = (b"x-bittensor-", b"epistula-", b"x-epistula-", b"body-signature")
_RECEIVERS: dict[DialectName, bytes] = {
    "legacy": b"bt_header_axon_hotkey",
    "btauth": b"x-bittensor-receiver",
    "epistula": b"epistula-signed-for",
}
_SPOKEN: dict[bytes, DialectName] = {LEGACY_SIGN: "legacy", BTAUTH_SIGN: "btauth", EPISTULA_SIGN: "epistula"}
_SIGNS = frozenset({*_SPOKEN, b"body-signature", b"x-epistula-signature"})
"""Headers that hold a signature, of earlier Epistulas too."""


class Rules(Protocol):
    """What a claim is judged by; `serving.subnets.base.Route` has it."""

    @property
    def max_timeout(self) -> Seconds:
        """The longest time that a caller may claim."""
        ...

    @property
    def hash_fields(self) -> Sequence[str]:
        """Fields under the legacy body hash, in declared order: how SDK 8 to 10 hashes them."""
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
        """The typed Python values of `hash_fields`."""
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
    def signed_at(self) -> int | None:
        """Unix ns at which the request was signed by the caller's clock; None where its nonce is no time."""
        ...

    @property
    def timeout(self) -> Seconds | None:
        """How long the caller waits, where the dialect says."""
        ...

    def check_fresh(self, now_ns: int, route: Rules) -> None:
        """Raise Refusal (401) unless the request was signed in the dialect's window around `now_ns`."""
        ...

    def check_signature(self, head: Head, body: bytes) -> None:
        """Raise Refusal (401) unless the claimed sender signed this request for us."""
        ...

    async def spend(self, store: ReplayStore, sender: PublicKey, receiver: PublicKey, now_ns: int) -> None:
        """Use the nonce up; raises Refusal (401) when it was used before. Only after a good signature."""
        ...

    def check_body(self, route: Rules, content: dict[str, Any]) -> None:
        """Raise Refusal (401) unless the decoded body is the one that was signed, as far as the dialect signs it."""
        ...

    def covers(self, route: Rules) -> bool:
        """Whether the signature vouches for the route's inputs; otherwise anybody on the way can change them."""
        ...


ReadClaim = Callable[[Head, Hotkey], Claim]
"""The claim of a head towards our own hotkey; raises Refusal 400 or 401 on its shape."""


def dialect_of(head: Head) -> DialectName:
    """The dialect by the signature header that is there; raises Refusal 400 for a mixture, 401 for none."""
    signs = _SIGNS.intersection(head.fields)
    if not signs:
        raise Refusal(401, "unsigned", "the request is not signed")
    if len(signs) > 1:
        raise Refusal(400, "mixed_dialects", "signature headers of two dialects in one request")
    (sign,) = signs
    dialect = _SPOKEN.get(sign)
    if dialect is None:
        raise Refusal(401, "dialect_unknown", f"{sign.decode()} is not spoken here; Epistula 2 may be")
    return dialect


def check_age(age_ns: int, *, behind_ns: int, ahead_ns: int) -> None:
    """Raise Refusal (401) for what was signed longer ago, or further ahead by our clock; both ends are good."""
    if age_ns > behind_ns:
        raise Refusal(401, "stale", f"the request is {_s(age_ns)} s old, {_s(behind_ns)} s are allowed")
    if -age_ns > ahead_ns:
        raise Refusal(401, "future", f"the nonce is {_s(-age_ns)} s ahead, {_s(ahead_ns)} s are allowed")


def _s(ns: int) -> str:
    return f"{ns / 1e9:.2f}"


def reads_bt_headers(names: Iterable[bytes]) -> bool:
    """Whether a refusal to a request with these header names may carry bt headers, whatever else is wrong with it.

    Only where something of a Dendrite is there and nothing of any other dialect.
    """
    dendrite = False
    for name in names:
        if name.startswith(_OTHERS):
            return False
        dendrite = dendrite or name.startswith(b"bt_header_dendrite_")
    return dendrite


def receiver_named(dialect: DialectName, head: Head) -> str | None:
    """The hotkey that a request says it is for, None when it names none; unverified, good for choosing a miner only.

    A signature is checked with our own hotkey as receiver, whatever stands here. Raises Refusal (400) when it is no
    ASCII text.
    """
    return head.text(_RECEIVERS[dialect])
