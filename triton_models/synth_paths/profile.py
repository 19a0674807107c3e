"""When an asset's variance comes: the share of each part of the session, the night and the weekend, or of each hour.

Scales are mean absolute returns, which one crash moves far less than mean squares (Davidian and Carroll 1987), with the
level of the weeks around taken out first, so that a turbulent month does not decide the shape of the day.
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
USUAL_NIGHT = 3.0
"""Hours of average trading that a night moves, where none was seen."""
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


def session_profile(times: I64, prices: F64) -> dict[str, Any]:
    """A ``session`` profile from points of New York's regular session, one to many an hour, with nights in between.

    The variance of each hour of the session is as measured; inside the hours it runs smoothly (a monotone cubic
    through the cumulated variance), since hourly bars say nothing finer. Holidays count as weekends.
    """
    from scipy.interpolate import PchipInterpolator

    moves = _moves(times, prices, NEW_YORK)
    inside = moves.nights == 0
    scaled = _without_level(moves, inside)
    borders = np.array([*range(SESSION_OPEN, SESSION_CLOSE, 3600), SESSION_CLOSE], dtype=float)
    hours = np.diff(borders) / 3600
    which = np.clip(np.searchsorted(borders, moves.second, side="right") - 1, 0, len(hours) - 1)
    rates = scaled / np.sqrt(moves.seconds / 3600)  # per square root of an hour
    average = _square_of_mean(rates[inside])
    hourly = _weights(rates, average, moves.day, np.where(inside, which, -1), len(hours))
    cumulated = np.concatenate([[0.0], np.cumsum(hourly * hours)])
    parts = np.diff(PchipInterpolator(borders, cumulated)(np.linspace(SESSION_OPEN, SESSION_CLOSE, PARTS + 1)))
    unit = average * cumulated[-1] / hours.sum()  # what an average hour of the session moves
    overnight = _square_of_mean(scaled[moves.nights == 1]) / unit or USUAL_NIGHT
    weekend = _square_of_mean(scaled[moves.nights > 1]) / unit or overnight
    return {
        "clock": "session",
        "zone": NEW_YORK,
        "open": SESSION_OPEN,
        "close": SESSION_CLOSE,
        "weights": _rounded(parts / parts.mean()),
        "overnight": round(float(overnight), 6),
        "weekend": round(float(weekend), 6),
    }


def day_profile(times: I64, prices: F64) -> dict[str, Any]:
    """A ``day`` profile by hour of the UTC day, for an asset that trades round the clock."""
    moves = _moves(times, prices, "UTC")
    inside = moves.seconds <= 3600
    rates = _without_level(moves, inside) / np.sqrt(moves.seconds / 3600)
    hour = (moves.second // 3600).astype(np.int64)
    weights = _weights(rates, _square_of_mean(rates[inside]), moves.day, np.where(inside, hour, -1), 24)
    return {"clock": "day", "zone": "UTC", "weights": _rounded(weights / weights.mean())}


def _weights(rates: F64, average: float, day: I64, which: I64, count: int) -> F64:
    """Variance (count,) of each part of the day against the average, drawn towards 1 where few days tell."""
    weights = np.ones(count)
    for part in range(count):
        here = which == part
        days = len(np.unique(day[here]))
        if days:
            weights[part] += days / (days + PRIOR_DAYS) * (_square_of_mean(rates[here]) / average - 1)
    return weights


def _square_of_mean(values: F64) -> float:
    return float(values.mean()) ** 2 if len(values) else 0.0


def _rounded(values: F64) -> list[float]:
    return [round(float(value), 6) for value in values]
