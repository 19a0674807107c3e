"""Whose clock is off: this machine's by time servers, and the callers' by the requests they sign."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.config import GatewayConfig
from serving.files import StateFile
from serving.state import ClockSkew
from serving.wire.keys import PublicKey

WINDOW_S = 60.0
MOST_CALLERS = 1024


class OwnClock(Collector):
    """What ``clock-skew.json`` says, for /readyz and /metrics; nothing where nobody measures."""

    def __init__(self, config: GatewayConfig) -> None:
        self._limit = config.max_skew
        self._file = None if config.skew is None else StateFile(Path(config.skew), ClockSkew)

    def report(self) -> dict[str, Any] | None:
        """Skew and age in seconds, and whether the skew is below the limit; None where nobody measures."""
        found = self._file.get() if self._file is not None else None
        if found is None:
            return None
        good = found.skew_s is not None and abs(found.skew_s) <= self._limit
        return {
            "skew_s": found.skew_s, "limit_s": self._limit, "good": good, "servers": found.answered,
            "age_s": round(time.time() - found.written_at, 3),
        }  # fmt: skip

    def collect(self) -> Iterable[Metric]:
        """The skew, while it is known."""
        found = self.report()
        if found is not None and found["skew_s"] is not None:
            yield GaugeMetricFamily(
                "headframe_clock_skew_seconds",
                "How far this machine's clock is ahead of time servers' (the median); negative when it is behind.",
                value=found["skew_s"],
            )


class CallerClocks:
    """How old requests are when they arrive: the median over distinct callers, so that one bad clock moves nothing.

    One number a caller and minute, its newest; callers beyond a bound are not counted until the next minute.
    """

    def __init__(self) -> None:
        self._ages: dict[PublicKey, float] = {}
        self._last: float | None = None
        self._begun = time.monotonic()

    def add(self, caller: PublicKey, age_s: float) -> None:
        """A request whose signature was good was this old; negative when the caller's clock is ahead of ours."""
        if caller in self._ages or len(self._ages) < MOST_CALLERS:
            self._ages[caller] = age_s

    def median(self) -> float | None:
        """Over the last whole minute, or the one that runs when there was none yet; None before any request."""
        now, ages = time.monotonic(), list(self._ages.values())
        if now - self._begun > WINDOW_S:
            self._last = median(ages) if ages else self._last
            self._ages, self._begun = {}, now
        return median(ages) if self._last is None and ages else self._last
