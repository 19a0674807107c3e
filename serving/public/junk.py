"""How much junk one address may send.

Junk is a request that is refused before its signature was found good. Each worker keeps books of its own, so N workers
together allow up to N times the figures. A caller that claims a welcome hotkey has books of its own for each address,
so that junk from the same address (a shared NAT, a shield) does not shut it out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil

from serving.errors import Refusal
from serving.public.origins import Address


class JunkBudgets:
    """How much junk each address may send: `burst` at once, `per_s` sustained.

    One number for whoever spent anything: the time at which the budget is whole again. The numbers lie in two dicts;
    when the young one is full, or so old that every budget in the other is whole, it becomes the old one and the old
    one goes. Memory is bounded by `remembered`; only a flood from more addresses makes some be forgotten early.
    """

    def __init__(
        self, *, per_s: float, burst: int, remembered: int = 65_536, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cost = 1.0 / per_s
        self._ahead = burst / per_s
        self._half = max(1, remembered // 2)
        self._clock = clock
        self._young: dict[bytes, float] = {}
        self._old: dict[bytes, float] = {}
        self._turned = clock()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def check(self, address: Address) -> None:
        """Raise Refusal (429) when this address has spent its budget."""
        now = self._clock()
        self._judge(self._after(address, now), now)

    def spent(self, address: Address) -> bool:
        """Whether one more would be too much."""
        if address not in self._young and address not in self._old:
            return False
        now = self._clock()
        return self._after(address, now) > now + self._ahead

    def charge(self, address: Address) -> None:
        """One junk request came from here."""
        now = self._clock()
        self._put(address, min(self._after(address, now), now + self._ahead + self._cost), now)

    def reserve(self, address: Address, hotkey: str) -> None:
        """Charge a claim of a welcome hotkey before any work on its proof; raises Refusal (429)."""
        now, key = self._clock(), address + hotkey.encode()
        whole_at = self._after(key, now)
        self._judge(whole_at, now)
        self._put(key, whole_at, now)

    def restore(self, address: Address, hotkey: str) -> None:
        """The claim was true: what `reserve` charged comes back."""
        key = address + hotkey.encode()
        whole_at = self._whole_at(key) - self._cost
        self._old.pop(key, None)
        if whole_at > self._clock():
            self._young[key] = whole_at
        else:
            self._young.pop(key, None)

    def _whole_at(self, key: bytes) -> float:
        found = self._young.get(key)
        return self._old.get(key, 0.0) if found is None else found

    def _after(self, key: bytes, now: float) -> float:
        """When the budget would be whole again after one more."""
        return max(self._whole_at(key), now) + self._cost

    def _judge(self, whole_at: float, now: float) -> None:
        over = whole_at - now - self._ahead
        if over > 1e-9:
            raise Refusal(
                429, "address_over_budget", "too many bad requests from this address", retry_after=max(1, ceil(over))
            )

    def _put(self, key: bytes, whole_at: float, now: float) -> None:
        if len(self._young) >= self._half or now - self._turned > self._ahead:
            self._old, self._young, self._turned = self._young, {}, now
        self._young[key] = whole_at
