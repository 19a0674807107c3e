"""A deadline that moves with every request, and one timer that serves them all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """A time by which something must have come.

    Moving it sets no timer: the one that runs finds out, when it fires, how long it has still to wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[], None]) -> None:
        """`late` is called when the time is over."""
        self.at: float | None = None
        """By the loop's clock, s; None while nothing is awaited."""
        self._loop = loop
        self._late = late
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """So long from now, whatever it was before."""
        self.at = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self.at:
            self._stop()
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._look)

    def clear(self) -> None:
        """Nothing is awaited."""
        self.at = None

    def over(self) -> None:
        """Nothing will be awaited any more."""
        self.at = None
        self._stop()

    def _look(self) -> None:
        self._timer = None
        if self.at is None:
            return
        left_s = self.at - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look)
        else:
            self._late()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
