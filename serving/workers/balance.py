"""How many connections each worker holds, in memory that all of them share, so that none takes more than its part.

Whoever wakes first takes a waiting connection, and on a busy machine that is often the same worker again and again;
callers keep their connections, so it would stay that way. A worker that is ahead lets the others go first.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

SLACK = 2
"""Connections that a worker may be ahead of the one with the fewest, besides a quarter of those."""
AWAY = -1
"""Stands where no worker takes connections."""
_WIDTH = 4


class Shares:
    """One number for each worker, by its place."""

    def __init__(self, fd: int) -> None:
        """`fd`: shared memory of four bytes a place, as `reserve` makes it."""
        self.fd = fd
        self._counts = memoryview(mmap.mmap(fd, 0)).cast("i")

    @classmethod
    def reserve(cls, places: int) -> Shares:
        """New shared memory, every place AWAY."""
        fd = os.memfd_create("headframe-connections")
        os.ftruncate(fd, places * _WIDTH)
        made = cls(fd)
        for place in range(places):
            made.put(place, AWAY)
        return made

    def put(self, place: int, count: int) -> None:
        """This worker now holds `count` connections."""
        self._counts[place] = count

    def taking(self) -> int:
        """How many workers take connections."""
        return sum(count != AWAY for count in self._counts)

    def ahead(self, place: int) -> bool:
        """Whether another worker should take the next connection."""
        others = [count for other, count in enumerate(self._counts) if other != place and count != AWAY]
        if not others:
            return False
        fewest = min(others)
        return self._counts[place] > fewest + SLACK + fewest // 4


class Counted(set[Any]):
    """A set of connections that tells its size."""

    def __init__(self, shares: Shares, place: int) -> None:
        super().__init__()
        self._shares, self._place = shares, place
        self._here = True
        shares.put(place, 0)

    def add(self, connection: Any) -> None:
        """One more."""
        super().add(connection)
        self._tell()

    def discard(self, connection: Any) -> None:
        """One less."""
        super().discard(connection)
        self._tell()

    def leave(self) -> None:
        """No further one is taken here."""
        self._here = False
        self._shares.put(self._place, AWAY)

    def _tell(self) -> None:
        if self._here:
            self._shares.put(self._place, len(self))
