"""A route's rules and a replay store at the edge of the wire tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.errors import Refusal
from serving.types import NonceNs, Seconds
from serving.wire.head import Head
from serving.wire.keys import PublicKey

TIMEOUT = Seconds(12.0)


@dataclass
class Rules:
    """A route whose hashed values are `values`, whatever the body says."""

    hash_fields: Sequence[str] = ()
    values: Sequence[Any] = ()
    model_order: Sequence[str] = ()
    monotonic_nonces: bool = False
    max_timeout: Seconds = TIMEOUT

    def hashed_values(self, body: dict[str, Any]) -> list[Any]:
        return list(self.values)


@dataclass
class Store:
    """Remembers everything for ever."""

    spent: set[tuple[bytes, bytes, int]] = field(default_factory=set)
    last: dict[tuple[bytes, bytes, str], int] = field(default_factory=dict)

    async def spend(self, sender: PublicKey, receiver: PublicKey, nonce: NonceNs, now_ns: int) -> None:
        if (sender, receiver, nonce) in self.spent:
            raise Refusal(401, "replayed", "again")
        self.spent.add((sender, receiver, nonce))

    async def advance(self, sender: PublicKey, receiver: PublicKey, uuid: str, nonce: int) -> None:
        if nonce <= self.last.get((sender, receiver, uuid), -1):
            raise Refusal(401, "replayed", "not above the last")
        self.last[sender, receiver, uuid] = nonce

    async def tick(self, now_ns: int) -> None:
        """Nothing is forgotten."""

    async def close(self) -> None:
        """Nothing is open."""


def head(headers: dict[str, str], target: str = "/X", method: str = "POST") -> Head:
    """A head with these headers, in any case."""
    fields = {name.lower().encode(): value.encode() for name, value in headers.items()}
    return Head(method, target.partition("?")[0].encode(), target.encode(), fields)
