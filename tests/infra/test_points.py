"""What the packaged bars say at instants, as the validators read candles: the semantics that scoring stands on."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from infra import bars
from infra.points import Priced, look_up, priced, sessions_of
from infra.price_sources.packaged import ASSET, Packaged


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def points(step: int) -> tuple[pd.DataFrame, Priced]:
    table = bars.clean(Packaged().history(ASSET, step), step, "new-york").bars
    return table, priced(table, step, "new-york")


@pytest.fixture(scope="module")
def minutes() -> tuple[pd.DataFrame, Priced]:
    return points(60)


@pytest.fixture(scope="module")
def hours() -> tuple[pd.DataFrame, Priced]:
    return points(3600)


def day(points: Priced, text: str) -> list[tuple[str, float]]:
    """New York's clock and the price at each point of a day."""
    start = at(f"{text}T00:00-04:00")
    chosen = (points.times >= start) & (points.times < start + 86_400)
    stamps = pd.to_datetime(points.times[chosen], unit="s", utc=True).tz_convert("America/New_York")
    return list(zip(stamps.strftime("%H:%M"), points.prices[chosen].tolist(), strict=True))


def test_a_minutes_price_is_its_bars_close_known_a_minute_later(minutes: tuple[pd.DataFrame, Priced]) -> None:
    table, found = minutes
    assert_array_equal(found.times, table["time"])
    assert_array_equal(found.prices, table["close"])
    assert_array_equal(found.known - found.times, 60)
    first = at("2026-07-31T09:30-04:00")
    assert look_up(found, np.array([first]))[0] == 304.04998779296875
    assert len(found.known_by(first + 59).times) == 0
    assert found.known_by(first + 60).times.tolist() == [first]


def test_the_minutes_hold_24_disjoint_full_hours(minutes: tuple[pd.DataFrame, Priced]) -> None:
    spans = sessions_of(minutes[1].times, "new-york")
    assert [(last - first) // 60 + 1 for first, last in spans] == [390, 390, 390, 390, 36]
    assert sum((last - first) // 3600 for first, last in spans) == 24
    hour = np.arange(0, 3601, 60)
    starts = [first + 3600 * n for first, last in spans for n in range((last - first) // 3600)]
    assert all(np.isfinite(look_up(minutes[1], start + hour)).all() for start in starts)


def test_an_hours_price_is_its_bars_open_and_a_session_ends_with_its_last_close(
    hours: tuple[pd.DataFrame, Priced],
) -> None:
    table, found = hours
    assert_array_equal(found.known, found.times)
    told = day(found, "2026-08-05")
    assert [clock for clock, _ in told] == ["09:30", "10:30", "11:30", "12:30", "13:30", "14:30", "15:30", "16:00"]
    last = table[table["time"] == at("2026-08-05T15:30-04:00")].iloc[0]
    assert told[-2:] == [("15:30", last["open"]), ("16:00", last["close"])]
    assert last["close"] == 310.9200134277344


def test_a_half_day_and_a_day_cut_short_end_where_their_last_bar_ends(hours: tuple[pd.DataFrame, Priced]) -> None:
    assert [clock for clock, _ in day(hours[1], "2025-11-28")] == ["09:30", "10:30", "11:30", "12:30"]
    assert [clock for clock, _ in day(hours[1], "2026-01-30")] == ["09:30", "10:30", "11:30"]


def test_a_bar_that_opens_half_an_hour_before_an_early_close_ends_with_the_session() -> None:
    opens = [at(f"2025-11-28T{clock}-05:00") for clock in ("09:30", "10:30", "11:30", "12:30")]
    found = priced(bars.make(opens, [1.0, 2.0, 3.0, 4.0]), 3600, "new-york")
    assert found.times[-1] == at("2025-11-28T13:00-05:00")


def test_the_packaged_hours_are_501_sessions_from_half_past_nine_new_york_in_summer_and_winter(
    hours: tuple[pd.DataFrame, Priced],
) -> None:
    spans = sessions_of(hours[1].times, "new-york")
    clocks = pd.to_datetime([first for first, _ in spans], unit="s", utc=True)
    assert len(spans) == 501
    assert set(clocks.strftime("%H:%M")) == {"13:30", "14:30", "18:30"}  # 18:30: the day that begins after lunch
    assert (clocks.tz_convert("America/New_York").strftime("%H:%M") == "09:30").sum() == 500
    assert set(np.unique([last - first for first, last in spans])) == {7200, 3 * 3600, 9000, 23_400}


def test_a_low_prompt_from_the_opening_has_three_terms_and_one_by_the_sessions_end(
    hours: tuple[pd.DataFrame, Priced],
) -> None:
    grid = at("2026-08-04T09:30-04:00") + np.arange(0, 86_401, 300)
    truth = look_up(hours[1], grid)
    three_hours = truth[:: 10_800 // 300]
    assert np.isfinite(truth).sum() == 9
    assert np.isfinite(np.diff(three_hours)).sum() == 2
    assert np.isfinite(truth[-1])
    assert not np.isfinite(np.diff(truth)).any()
    assert np.isfinite(np.diff(truth[::6])).sum() == 1  # from 15:30 to 16:00, which the gate leaves out


def test_the_week_the_clocks_change_keeps_new_yorks_hours(hours: tuple[pd.DataFrame, Priced]) -> None:
    before, after = at("2026-03-06T09:30-05:00"), at("2026-03-09T09:30-04:00")
    assert after - before == 3 * 86_400 - 3600
    assert np.isfinite(look_up(hours[1], np.array([before, after, after - 3600, after + 23_400]))).tolist() == [
        True, True, False, True,
    ]  # fmt: skip


def test_round_the_clock_hours_need_no_extra_points_but_one_before_each_pause() -> None:
    opens = 3600 * np.array([480_000, 480_001, 480_002, 480_010])
    found = priced(bars.make(opens, [1.0, 2.0, 3.0, 4.0]), 3600, "round-the-clock")
    assert (found.times // 3600 - 480_000).tolist() == [0, 1, 2, 3, 10, 11]
    assert found.prices.tolist() == [1.0, 2.0, 3.0, 3.0, 4.0, 4.0]
    assert [(a // 3600 - 480_000, b // 3600 - 480_000) for a, b in sessions_of(found.times, "round-the-clock")] == [
        (0, 11)
    ]
    assert sessions_of(np.array([], dtype=np.int64), "new-york") == []


def test_known_by_takes_the_last_ones() -> None:
    found = priced(bars.make(60 * np.arange(10), np.arange(1.0, 11.0)), 60, "round-the-clock")
    assert found.known_by(300.0, 2).prices.tolist() == [4.0, 5.0]
    assert found.known_by(None, 100).prices.tolist() == found.prices.tolist()
    assert found.known_by(0.0).prices.tolist() == []
