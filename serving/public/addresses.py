"""Which address a request comes from, and how much junk one address may send.

Junk is a request that is refused before its signature was found good. Each worker keeps books of its own, so N workers
together allow up to N times the figures. A caller that claims a welcome hotkey has books of its own for each address,
so that junk from the same address (a shared NAT, a shield) does not shut it out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from math import ceil
from typing import NamedTuple, NewType

from serving.errors import Refusal, UserError

Address = NewType("Address", bytes)
"""4 bytes of IPv4, the first 8 of IPv6 (one customer has a whole /64), none where there is no address."""

FORWARDED_FOR = b"x-forwarded-for"
MAX_HOPS = 16
"""Hops of a forwarded address that are looked at; more is as good as garbage."""
_MAX_PEERS = 4096
_LONGEST = 64
"""Characters of an address with brackets, zone and port."""


class Peer(NamedTuple):
    """An address, and whether it is a reverse proxy of ours."""

    address: Address
    trusted: bool


NOWHERE = Peer(Address(b""), False)
"""A peer without an address: a unix socket, or a test."""


class Origins:
    """Finds the address behind a request.

    ``X-Forwarded-For`` counts only when a trusted proxy sent it, and in it the right-most hop that is not such a proxy.
    Without one, or where it is garbage, the proxy itself is the origin.
    """

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        self._trusted = networks(trusted)
        self._peers: dict[str, Peer] = {}

    def peer(self, host: str | None) -> Peer:
        """The other end of a connection."""
        if host is None:
            return NOWHERE
        found = self._peers.get(host)
        if found is None:
            if len(self._peers) >= _MAX_PEERS:
                self._peers.clear()
            found = self._peers[host] = self._read(host) or NOWHERE
        return found

    def behind(self, peer: Peer, headers: Iterable[tuple[bytes, bytes]]) -> Address:
        """Where a request over this connection comes from; `headers` by lower-case name, in the order sent."""
        if not peer.trusted:
            return peer.address
        hops = b",".join(value for name, value in headers if name == FORWARDED_FOR)
        for hop in reversed(hops.rsplit(b",", MAX_HOPS)):
            found = self._read(hop.decode("latin-1").strip())
            if found is None:
                break
            if not found.trusted:
                return found.address
        return peer.address

    def _read(self, text: str) -> Peer | None:
        if len(text) > _LONGEST:
            return None
        if text.startswith("["):
            text = text[1:].partition("]")[0]
        elif text.count(":") == 1:  # IPv4 with a port
            text = text.partition(":")[0]
        try:
            ip = ip_address(text)
        except ValueError:
            return None
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return Peer(address_of(ip), any(ip in network for network in self._trusted))


def address_of(ip: IPv4Address | IPv6Address) -> Address:
    """The part of an address that one customer holds."""
    return Address(ip.packed[:8])


def networks(texts: Sequence[str]) -> list[IPv4Network | IPv6Network]:
    """Networks in CIDR notation, or single addresses; raises UserError for anything else."""
    found = []
    for text in texts:
        try:
            found.append(ip_network(text, strict=False))
        except ValueError:
            raise UserError(
                f"gateway trusted_proxies: {text!r} is neither an address nor a network such as 10.0.0.0/8"
            ) from None
    return found


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
