"""Which address a request comes from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, NewType

from serving.errors import UserError

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
