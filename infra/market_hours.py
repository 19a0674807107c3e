"""When a market trades: New York's regular sessions with their holidays and half days, or round the clock.

Holidays follow the rules of the New York Stock Exchange (Rule 7.2) as they stand since 2022, and the days that were
closed by proclamation are listed. Days by which nothing is known to be closed are sessions, so a missing day is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

Hours = Literal["new-york", "round-the-clock"]
NEW_YORK = ZoneInfo("America/New_York")
DAY = 86_400

_OPEN, _CLOSE, _EARLY = time(9, 30), time(16, 0), time(13, 0)
_PROCLAIMED = frozenset({date(2025, 1, 9)})  # the day of mourning for President Carter


def _nth(year: int, month: int, weekday: int, n: int) -> date:
    """The n-th such weekday of a month, n from 1; n = -1 is the last."""
    if n < 0:
        last = date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)
        return last - timedelta(days=(last.weekday() - weekday) % 7)
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (n - 1))


def _observed(day: date) -> date:
    """A holiday on a Sunday moves to Monday, on a Saturday to Friday."""
    return day + timedelta(days={5: -1, 6: 1}.get(day.weekday(), 0))


def _good_friday(year: int) -> date:
    """Two days before Easter, by the anonymous Gregorian computus (Meeus, Astronomical Algorithms, ch. 8)."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (b - (b + 8) // 25 + 1) // 3
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    weekday = (32 + 2 * e + 2 * i - h - k) % 7
    m = (a + 11 * h + 22 * weekday) // 451
    month, day = divmod(h + weekday - 7 * m + 114, 31)
    return date(year, month, day + 1) - timedelta(days=2)


@lru_cache(maxsize=64)
def _holidays(year: int) -> frozenset[date]:
    fixed = [date(year, 6, 19), date(year, 7, 4), date(year, 12, 25)]
    closed = {_observed(day) for day in fixed}
    new_year = date(year, 1, 1)
    if new_year.weekday() != 5:  # a Saturday's New Year is not made up for on the old year's last day
        closed.add(_observed(new_year))
    closed |= {_nth(year, 1, 0, 3), _nth(year, 2, 0, 3), _good_friday(year), _nth(year, 5, 0, -1)}
    closed |= {_nth(year, 9, 0, 1), _nth(year, 11, 3, 4)}
    return frozenset(closed)


@lru_cache(maxsize=64)
def _early(year: int) -> frozenset[date]:
    candidates = {date(year, 7, 3), date(year, 12, 24), _nth(year, 11, 3, 4) + timedelta(days=1)}
    return frozenset(day for day in candidates if day.weekday() < 5 and day not in _holidays(year))


@lru_cache(maxsize=4096)
def session(day: date, hours: Hours) -> tuple[int, int] | None:
    """Open and close of the session of `day` in unix seconds, or None when the market is closed.

    A day round the clock is a UTC day.
    """
    if hours == "round-the-clock":
        start = (day - date(1970, 1, 1)).days * DAY
        return start, start + DAY
    if day.weekday() >= 5 or day in _holidays(day.year) or day in _PROCLAIMED:
        return None
    close = _EARLY if day in _early(day.year) else _CLOSE
    return tuple(int(datetime.combine(day, at, NEW_YORK).timestamp()) for at in (_OPEN, close))  # type: ignore[return-value]


def day_of(at: float, hours: Hours) -> date:
    """The market's calendar day at an instant (unix s)."""
    zone = NEW_YORK if hours == "new-york" else ZoneInfo("UTC")
    return datetime.fromtimestamp(at, zone).date()


def sessions_between(first: float, last: float, hours: Hours) -> Iterator[tuple[int, int]]:
    """Open and close (unix s) of every session of the days from `first` to `last`, both included."""
    day, end = day_of(first, hours), day_of(last, hours)
    while day <= end:
        found = session(day, hours)
        if found is not None:
            yield found
        day += timedelta(days=1)
