"""How many connections a worker holds, and whose must go when there are too many."""

from __future__ import annotations

import resource
from typing import Literal, Protocol

from serving.public.origins import Address

SPARE_FILES = 256
"""Open files that a worker keeps for everything that is not a caller's connection."""
LINGERING = 64
"""Connections that may wait for their callers to end what they send."""
LINGERING_EACH = 8
"""Those of one address among them: more would leave none for others."""


class Connection(Protocol):
    """One caller's connection, as the registry and the road see it."""

    gone: bool
    """Whether the caller hung up."""
    proven: bool
    """Whether a good signature came over it before; never so where a proxy sends many callers' requests."""

    def prove(self) -> None:
        """A signature that came over this connection was good."""
        ...

    def drop(self) -> None:
        """Close it now, whatever it is at."""
        ...

    def break_off(self) -> None:
        """End the reply that is under way, so that nobody takes it for whole."""
        ...


Verdict = Literal["", "address", "total"]
"""Why a newcomer was refused: too many of its address, or too many altogether; empty when it was not."""


class Connections:
    """At most `total` connections, and at most `per_address` of one address that has proved nothing.

    When the house is full, the newest connection of the address that holds most is closed for a newcomer; where that is
    the newcomer itself, it is refused. A connection over which a good signature came is never closed for another, nor
    does it count against its address; neither does one of a trusted proxy. Those that linger after their last reply
    count like all others, and are the first to go, whoever's they are.
    """

    def __init__(self, *, total: int = 4096, per_address: int = 512) -> None:
        self.count = 0
        self._total = total
        self._per_address = per_address
        self._held: dict[Address, dict[Connection, None]] = {}
        self._holding: list[dict[Address, None]] = [{}]
        """At n, the addresses that hold n; the last is never empty, save the first."""
        self._lingering: dict[Connection, Address] = {}
        """Longest first."""

    def admit(self, address: Address | None, newcomer: Connection) -> Verdict:
        """Take a connection in, or say why not; None is the address of a trusted proxy."""
        holds = 0 if address is None else len(self._held.get(address, ()))
        if address is not None and holds >= self._per_address:
            return "address"
        if self.count >= self._total and not self._make_room(holds + 1):
            return "total"
        self.count += 1
        if address is not None:
            held = self._held.setdefault(address, {})  # one of its own may just have made room
            held[newcomer] = None
            self._move(address, len(held) - 1, len(held))
        return ""

    def forget(self, address: Address, connection: Connection) -> None:
        """It no longer counts against its address: it carried a good signature, or is going."""
        held = self._held.get(address)
        if held is None or connection not in held:
            return
        del held[connection]
        self._move(address, len(held) + 1, len(held))
        if not held:
            del self._held[address]

    def linger(self, address: Address, connection: Connection) -> bool:
        """Whether it may stay a while after its last reply; never where half the house is taken.

        `address` is where that request came from, which may be behind a trusted proxy.
        """
        seated = list(self._lingering.values())
        if len(seated) >= LINGERING or seated.count(address) >= LINGERING_EACH or 2 * self.count > self._total:
            return False
        self._lingering[connection] = address
        return True

    def leave(self, address: Address, connection: Connection) -> None:
        """An admitted connection is closed."""
        self.count -= 1
        self._lingering.pop(connection, None)
        self.forget(address, connection)

    def _make_room(self, wanted: int) -> bool:
        if self._lingering:
            done = next(iter(self._lingering))
            self.forget(self._lingering.pop(done), done)
            done.drop()
            return True
        most = len(self._holding) - 1
        if most <= wanted:
            return False
        heaviest = next(iter(self._holding[most]))
        newest = next(reversed(self._held[heaviest]))
        self.forget(heaviest, newest)
        newest.drop()
        return True

    def _move(self, address: Address, before: int, after: int) -> None:
        if before:
            del self._holding[before][address]
        if after:
            if after == len(self._holding):
                self._holding.append({})
            self._holding[after][address] = None
        while len(self._holding) > 1 and not self._holding[-1]:
            self._holding.pop()


def open_files() -> int:
    """Raise this process's limit of open files as far as it may go, and say how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20
