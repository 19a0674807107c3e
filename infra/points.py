"""From bars to prices at instants, as the subnet's validators read them.

- Bars of 60 s: the price at t is the *close* of the bar that opens at t, known at t + 60.
- Longer bars: the price at t is the *open* of the bar that opens at t, known at t; the close of the last bar before a
  pause is one more point, at the instant the bar ends.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.market_hours import NEW_YORK, Hours, day_of, session


class Priced(NamedTuple):
    """Prices at instants, oldest first, with when each came to be known."""

    times: npt.NDArray[np.int64]
    """Unix s at which the price held."""
    prices: npt.NDArray[np.float64]
    known: npt.NDArray[np.int64]
    """Unix s from which the price was known; never falls."""

    def known_by(self, at: float | None, count: int | None = None) -> Priced:
        """The points known at `at` (all when None), the last `count` of them."""
        end = len(self.known) if at is None else int(np.searchsorted(self.known, at, side="right"))
        start = 0 if count is None else max(0, end - count)
        return Priced(self.times[start:end], self.prices[start:end], self.known[start:end])


def priced(bars: pd.DataFrame, step: int, hours: Hours) -> Priced:
    """The points of clean bars of `step` seconds."""
    times = bars["time"].to_numpy(dtype=np.int64)
    if step <= 60:
        return Priced(times, bars["close"].to_numpy(dtype=np.float64), times + step)
    opens, closes = bars["open"].to_numpy(dtype=np.float64), bars["close"].to_numpy(dtype=np.float64)
    ends = bar_ends(times, step, hours)
    pause = np.ones(len(times), dtype=bool)
    pause[:-1] = ends[:-1] < times[1:]
    at = np.concatenate((times, ends[pause]))
    price = np.concatenate((opens, closes[pause]))
    order = np.argsort(at, kind="stable")
    return Priced(at[order], price[order], at[order])


def bar_ends(times: npt.NDArray[np.int64], step: int, hours: Hours) -> npt.NDArray[np.int64]:
    """When each bar ends: after `step` seconds or with its session, whichever is first."""
    ends = times + step
    if hours == "new-york":
        for index in np.flatnonzero(np.diff(times, append=np.iinfo(np.int64).max) > step):
            found = session(day_of(float(times[index]), hours), hours)
            if found is not None:
                ends[index] = min(ends[index], found[1])
    return ends


def sessions_of(times: npt.NDArray[np.int64], hours: Hours) -> list[tuple[int, int]]:
    """First and last point (unix s) of each day that has points, by the market's calendar."""
    if len(times) == 0:
        return []
    if hours == "new-york":
        local = pd.DatetimeIndex(pd.to_datetime(times, unit="s", utc=True)).tz_convert(NEW_YORK)
        days = np.asarray(local.normalize().asi8)
    else:
        days = times // 86_400
    starts = np.flatnonzero(np.diff(days, prepend=days[0] - 1))
    ends = np.append(starts[1:], len(times)) - 1
    return [(int(times[a]), int(times[b])) for a, b in zip(starts, ends, strict=True)]


def look_up(points: Priced, at: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The price at each instant of `at`, NaN where no point stands at that very second."""
    found = np.full(len(at), np.nan)
    if len(points.times):
        where = np.minimum(np.searchsorted(points.times, at), len(points.times) - 1)
        hit = points.times[where] == at
        found[hit] = points.prices[where[hit]]
    return found
