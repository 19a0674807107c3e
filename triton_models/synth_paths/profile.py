"""When an asset's variance comes: the share of each part of the session, the night and the weekend, or of each hour.

Scales are measured by mean absolute returns (Taylor 1986 on why: one crash moves a mean square far more), with the level
of the weeks around taken out first, so that a turbulent month does not decide the shape of the day.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

DAY = 86_400
NEW_YORK = "America/New_York"
SESSION_OPEN, SESSION_CLOSE = 34_200, 57_600
"""09:30 and 16:00 in New York, seconds after midnight."""
PARTS = 39
"""Ten-minute parts of the session that a profile says a weight for."""
PRIOR_DAYS = 10.0
"""Days of evidence that a flat day weighs against the data."""
LEVEL_DAYS = 21
"""Days over which the level is taken out, centred."""

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


class _Moves(NamedTuple):
    """Log returns between neighbouring points, with local times."""

    returns: F64
    seconds: F64
    """Length of each."""
    day: I64
    """Local day number at the start of each."""
    second: F64
    """Second of the local day at the start of each."""
    nights: I64
    """Midnights between start and end."""


def _moves(times: I64, prices: F64, zone: str) -> _Moves:
    hours, inverse = np.unique(times // 3600, return_inverse=True)
    offsets = [datetime.fromtimestamp(int(h) * 3600, ZoneInfo(zone)).utcoffset() for h in hours]
    local = times + np.array([int(o.total_seconds()) if o else 0 for o in offsets])[inverse]
    day, second = np.divmod(local, DAY)
    returns, nights = np.diff(np.log(prices)), np.diff(day)
    return _Moves(returns, np.diff(times).astype(float), day[:-1], second[:-1].astype(float), nights)


def _without_level(moves: _Moves, inside: npt.NDArray[np.bool_]) -> F64:
    """Absolute returns in units of the mean absolute return an hour of the days around (those `inside` count)."""
    days, index = np.unique(moves.day, return_inverse=True)
    rate = np.abs(moves.returns) / np.sqrt(moves.seconds / 3600)
    total = np.bincount(index, np.where(inside, rate, 0.0), len(days))
    count = np.bincount(index, inside.astype(float), len(days))
    window = np.ones(min(LEVEL_DAYS, len(days)))
    level = np.convolve(total, window, "same") / np.maximum(np.convolve(count, window, "same"), 1.0)
    level = np.where(level > 0, level, level[level > 0].mean() if (level > 0).any() else 1.0)
    scaled: F64 = np.abs(moves.returns) / level[index]
    return scaled


def session_profile(times: I64, prices: F64, step: int) -> dict[str, Any]:
    """A ``session`` profile from points of New York's regular session, `step` seconds apart, nights in between.

    The variance of each hour of the session is as measured; inside the hours it runs smoothly (a monotone cubic
    through the cumulated variance), since hourly bars say nothing finer. Holidays count as weekends.
    """
    from scipy.interpolate import PchipInterpolator

    moves = _moves(times, prices, NEW_YORK)
    inside = moves.nights == 0
    scaled = _without_level(moves, inside)
    borders = np.array([*range(SESSION_OPEN, SESSION_CLOSE, 3600), SESSION_CLOSE], dtype=float)
    which = np.clip(np.searchsorted(borders, moves.second, side="right") - 1, 0, len(borders) - 2)
    rates = scaled / np.sqrt(moves.seconds / 3600)  # per square root of an hour
    days = len(np.unique(moves.day))
    trust = days / (days + PRIOR_DAYS)
    average = _square_of_mean(rates[inside])
    hourly = np.array(
        [trust * _square_of_mean(rates[inside & (which == b)]) / average + 1 - trust for b in range(len(borders) - 1)]
    )
    cumulated = np.concatenate([[0.0], np.cumsum(hourly * np.diff(borders) / 3600)])
    parts = np.diff(PchipInterpolator(borders, cumulated)(np.linspace(SESSION_OPEN, SESSION_CLOSE, PARTS + 1)))
    unit = cumulated[-1] / ((SESSION_CLOSE - SESSION_OPEN) / 3600)  # so that an average session hour is 1
    nights = {name: _square_of_mean(scaled[mask]) / average / unit for name, mask in _nights(moves).items()}
    overnight = nights["overnight"] if nights["overnight"] > 0 else 3.0
    return {
        "clock": "session",
        "zone": NEW_YORK,
        "open": SESSION_OPEN,
        "close": SESSION_CLOSE,
        "weights": _rounded(parts / parts.mean()),
        "overnight": round(float(overnight), 6),
        "weekend": round(float(nights["weekend"] or overnight), 6),
    }


def _nights(moves: _Moves) -> dict[str, npt.NDArray[np.bool_]]:
    return {"overnight": moves.nights == 1, "weekend": moves.nights > 1}


def day_profile(times: I64, prices: F64, step: int) -> dict[str, Any]:
    """A ``day`` profile by hour of the UTC day, for an asset that trades round the clock."""
    moves = _moves(times, prices, "UTC")
    inside = moves.seconds <= 3600
    rates = _without_level(moves, inside) / np.sqrt(moves.seconds / 3600)
    days = len(np.unique(moves.day))
    trust = days / (days + PRIOR_DAYS)
    average = _square_of_mean(rates[inside])
    hour = (moves.second // 3600).astype(int)
    weights = np.array([_square_of_mean(rates[inside & (hour == h)]) / average for h in range(24)])
    weights = np.where(weights > 0, trust * weights + 1 - trust, 1.0)
    return {"clock": "day", "zone": "UTC", "weights": _rounded(weights / weights.mean())}


def _square_of_mean(values: F64) -> float:
    return float(values.mean()) ** 2 if len(values) else 0.0


def _rounded(values: F64) -> list[float]:
    return [round(float(value), 6) for value in values]
