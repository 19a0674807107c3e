"""Cleaning: what is dropped, what is told, and that neither order nor repetition of rows changes the result."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from infra import bars
from serving.errors import UserError

START = 1_785_931_200 // 86_400 * 86_400  # a Wednesday's midnight, UTC
OPEN = 1_785_936_600  # 2026-08-05 09:30 New York


def table(*rows: tuple[float, float, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["time", "open", "high", "low", "close"])


@st.composite
def messy(draw: st.DrawFn) -> pd.DataFrame:
    """Rows as the world sends them: some good, some with any number at all, in any order, some twice."""
    number = st.one_of(st.floats(0.01, 1e6), st.floats(), st.just(0.0), st.just(-1.0))
    rows = draw(
        st.lists(
            st.tuples(
                st.one_of(st.integers(0, 300).map(lambda n: START + 60.0 * n), st.floats()),
                number,
                number,
                number,
                number,
            ),
            max_size=30,
        )
    )
    good = draw(st.lists(st.tuples(st.integers(0, 300), st.floats(1.0, 1e5), st.floats(1.0, 1e5)), max_size=30))
    rows += [(START + 60.0 * n, a, max(a, b), min(a, b), b) for n, a, b in good]
    rows += draw(st.lists(st.sampled_from(rows), max_size=5)) if rows else []
    return table(*rows)


@given(messy())
def test_clean_bars_are_possible_in_order_and_every_other_row_is_counted(raw: pd.DataFrame) -> None:
    found = bars.clean(raw, 60)
    kept = found.bars
    assert list(kept.columns) == list(bars.COLUMNS)
    assert len(kept) + sum(found.dropped.values()) == len(raw)
    assert (np.diff(kept["time"]) > 0).all()
    assert (kept["time"] % 60 == 0).all()
    prices = kept[list(bars.PRICES)].to_numpy()
    assert (np.isfinite(prices) & (prices > 0)).all()
    assert (kept["high"] >= kept[["open", "close"]].max(axis=1) * (1 - 1e-6)).all()
    assert (kept["low"] <= kept[["open", "close"]].min(axis=1) * (1 + 1e-6)).all()


@given(messy())
def test_cleaning_twice_changes_nothing(raw: pd.DataFrame) -> None:
    once = bars.clean(raw, 60)
    twice = bars.clean(once.bars, 60)
    assert not twice.dropped
    assert bars.digest(twice.bars) == bars.digest(once.bars)


@given(messy(), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(raw: pd.DataFrame, chance: random.Random) -> None:
    once = bars.clean(raw, 60).bars
    rows = [*range(len(once)), *range(len(once))]
    chance.shuffle(rows)
    again = bars.clean(once.iloc[rows], 60)
    assert bars.digest(again.bars) == bars.digest(once)
    assert again.dropped.get("duplicate", 0) == len(once)


def test_each_kind_of_bad_row_has_its_own_count() -> None:
    found = bars.clean(
        table(
            (START + 120, 10, 11, 9, 10),
            (START, 10, 11, 9, 10),
            (START, 10, 11, 9, 10),
            (START + 60, 10, 11, 9, 10),
            (START + 60, 10, 12, 9, 11),
            (START + 180, 0, 11, 9, 10),
            (START + 240, 10, np.nan, 9, 10),
            (START + 300, 10, 9.5, 9, 10),
            (START + 330, 10, 11, 9, 10),
            (np.nan, 10, 11, 9, 10),
            (1e18, 10, 11, 9, 10),
        ),
        60,
    )
    assert found.dropped == {
        "duplicate": 1,
        "replaced by a later row": 1,
        "no positive price": 2,
        "high or low broken": 1,
        "off the minute": 1,
        "no time of this century": 2,
    }
    assert found.odd == {"out of order": 1}
    assert found.bars["close"].tolist() == [10, 11, 10]


def test_text_that_is_no_number_is_a_bad_row_and_a_missing_column_is_an_error() -> None:
    good = table((START, 10, 11, 9, 10))
    raw = pd.concat([good, good.assign(time=START + 60, open="ten")])
    assert bars.clean(raw, 60).dropped == {"no positive price": 1}
    with pytest.raises(UserError, match="no column open, close; it has time, high"):
        bars.clean(pd.DataFrame({"time": [1], "high": [1], "low": [1]}), 60)


def series(closes: list[float]) -> pd.DataFrame:
    return bars.make(START + 60 * np.arange(len(closes)), closes)


def test_a_spike_is_told_and_kept_and_a_crash_is_neither() -> None:
    calm = [100.0 + 0.05 * (n % 3) for n in range(50)]
    spike = bars.clean(series([*calm, 140.0, *calm]), 60)
    assert spike.odd == {"spike": 1}
    assert 140.0 in spike.bars["close"].tolist()
    crash = bars.clean(series([*calm, 70.0, *(0.7 * one for one in calm)]), 60)
    assert crash.odd == {}


def test_bars_outside_new_yorks_hours_are_dropped_for_a_session_series_only() -> None:
    raw = bars.make([OPEN - 60, OPEN, OPEN + 389 * 60, OPEN + 390 * 60], [1.0] * 4)
    assert bars.clean(raw, 60, "new-york").dropped == {"outside market hours": 2}
    assert bars.clean(raw, 60).dropped == {}


def test_gaps_inside_sessions_and_whole_sessions_are_told_but_nights_and_holidays_are_none() -> None:
    day = OPEN + 60 * np.arange(390)
    three = np.concatenate([day, day + 86_400, day + 5 * 86_400])  # Wednesday, Thursday, Monday: Friday is missing
    assert bars.gaps(np.concatenate([day, day + 86_400]), 60, "new-york") == []
    told = bars.gaps(np.delete(three, [10, 11, 400]), 60, "new-york")
    assert told == [
        "3 bars of 60 s missing inside sessions",
        "1 whole sessions missing",
        "most in one session: 390 from 2026-08-07T13:30Z",
    ]
    assert bars.gaps(day[[0, 5]], 60, "round-the-clock")[0] == "4 bars of 60 s missing inside sessions"
    assert bars.gaps(np.array([], dtype=np.int64), 60, "new-york") == []


def test_hours_are_inferred_from_five_days_or_more() -> None:
    day = OPEN - 2 * 86_400 + 60 * np.arange(390)
    week = np.concatenate([day + n * 86_400 for n in range(5)])
    assert bars.infer_hours(week) == "new-york"
    assert bars.infer_hours(day) == "round-the-clock"
    assert bars.infer_hours(np.append(week, OPEN - 60)) == "round-the-clock"


def test_merge_counts_what_is_new_and_what_differs() -> None:
    old, new = series([1.0, 2.0, 3.0]), series([1.0, 2.5, 3.0, 4.0]).iloc[1:]
    both, added, changed = bars.merge(old, new)
    assert (added, changed) == (1, 1)
    assert both["close"].tolist() == [1.0, 2.5, 3.0, 4.0]
    assert bars.merge(both, new)[1:] == (0, 0)
    assert bars.merge(bars.empty(), old)[1:] == (3, 0)


@given(st.lists(st.floats(1.0, 2.0), min_size=1, max_size=40), st.integers(0, 40))
def test_a_digest_depends_on_the_bars_alone(closes: list[float], cut: int) -> None:
    whole = series(closes)
    joined, _, _ = bars.merge(whole.iloc[:cut].reset_index(drop=True), whole.iloc[min(cut, 3) :])
    assert bars.digest(joined) == bars.digest(whole)
    changed = whole.assign(close=np.nextafter(whole["close"].to_numpy(), 9.0))
    assert bars.digest(changed) != bars.digest(whole)


def test_coarser_bars_need_both_their_ends() -> None:
    hour = bars.clean(series([10.0 + n for n in range(125)]), 60).bars
    made = bars.coarser(hour, 60, 3600)
    assert made["time"].tolist() == [START, START + 3600]
    assert made[["open", "high", "low", "close"]].to_numpy().tolist() == [[10, 69, 10, 69], [70, 129, 70, 129]]
    assert_array_equal(bars.coarser(hour.drop(index=59), 60, 3600)["time"], [START + 3600])
    assert bars.coarser(bars.empty(), 60, 3600).empty
