"""How long an answer takes of late, so that a request that cannot be answered in time is refused now and not later."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from serving.types import SlotName

WEIGHT = 1 / 8
"""Of a new time against all before it: about the last 15 count."""
LEAST = 3
"""Times without which nothing is said."""
FRESH_S = 10.0
"""Seconds after which what was learnt says nothing any more: the next request goes through and teaches anew."""


@dataclass(slots=True)
class _Average:
    mean: float = 0.0
    count: int = 0
    at: float = 0.0

    def add(self, seconds: float, now: float) -> None:
        self.count = self.count + 1 if now - self.at < FRESH_S else 1
        self.mean += (seconds - self.mean) * max(WEIGHT, 1 / self.count)
        self.at = now

    def said(self, now: float) -> float | None:
        return self.mean if self.count >= LEAST and now - self.at < FRESH_S else None


class ServiceTimes:
    """Exponentially weighted means of the seconds that a place in Triton is held, by slot.

    They hold what Triton's own queue adds at the present load, so that a slot's places divided by its mean is the rate
    at which its queue moves (Little's law).
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slots: dict[SlotName, _Average] = {}
        self._answers: dict[SlotName, float] = {}

    def learn(self, slot: SlotName, seconds: float) -> None:
        """An answer took that long."""
        usual = self._answers.get(slot, seconds)
        self._answers[slot] = usual + (seconds - usual) * WEIGHT
        known = self._slots.get(slot)
        if known is None:
            known = self._slots[slot] = _Average()
        known.add(seconds, self._clock())

    def late(self, slot: SlotName, seconds: float) -> None:
        """An answer would have taken longer than that: news only where it is more than was thought."""
        known = self._slots.get(slot)
        if known is not None and known.count and seconds > known.mean:
            known.add(seconds, self._clock())

    def usual(self, slot: SlotName) -> float | None:
        """Seconds that this slot's last answers took, however long ago, and whatever came too late since."""
        return self._answers.get(slot)

    def of(self, slot: SlotName) -> float | None:
        """Seconds that an answer of this slot takes; None when too little, or nothing new, is known."""
        known = self._slots.get(slot)
        return known.said(self._clock()) if known is not None else None
