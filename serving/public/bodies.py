"""How many bytes of long bodies one worker has in hand.

A body is read before its signature can be checked, so anybody who knows a welcome hotkey's name can make a worker read
one. The number of connections bounds what short bodies take; this bounds what the long ones take beyond that.
"""

from __future__ import annotations

from serving.errors import Refusal

FREE = 64 * 1024
"""Bytes of each body that do not count."""
MOST = 256 * 1024 * 1024
RETRY_S = 5


class Bodies:
    """Bytes beyond `FREE` of all bodies together, at most `most`, from their arrival until they are answered.

    Half of it is kept for connections over which a good signature came before.
    """

    def __init__(self, most: int = MOST) -> None:
        self.held = 0
        self._most = most

    def hold(self, had: int, size: int, *, proven: bool) -> int:
        """What counts of a body that is `size` bytes by now, where `had` counted before; raises Refusal (503)."""
        more = size - FREE - had
        if more <= 0:
            return had
        if self.held + more > (self._most if proven else self._most // 2):
            raise Refusal(503, "bodies_full", "too many long bodies at once", retry_after=RETRY_S)
        self.held += more
        return had + more

    def drop(self, had: int) -> None:
        """A body of which `had` bytes counted is done with."""
        self.held -= had
