"""Ticks are the values of `round_prices`, and their fault is the validator's rule, told on whole numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.subnets.synth.digits import fits, round_prices
from serving.subnets.synth.ticks import HIGHEST, LOWEST, Ticks, to_ticks
from serving.subnets.synth.validity import fault
from tests.serving.subnets.synth.vectors import request

NEAR_POWERS = st.builds(
    lambda power, steps: 10.0**power + steps * math.ulp(10.0**power), st.integers(-4, 7), st.integers(-40, 40)
)
TIES = st.builds(lambda count, decimals: (count + 0.5) / 10**decimals, st.integers(1, 99_999_999), st.integers(1, 7))
PRICES = (st.floats(LOWEST, HIGHEST) | NEAR_POWERS | TIES).filter(lambda price: LOWEST <= price < HIGHEST)
"""Prices inside the domain, many of them on its sharp edges."""


def ticks_of(prices: Any, dtype: type = np.float64) -> Ticks:
    ticks = to_ticks(np.array(prices, dtype=dtype))
    assert ticks is not None
    return ticks


@given(st.lists(PRICES, min_size=1, max_size=30))
@example([9.99999996])
@example([9.99999996, 5.0, 11.0])
@example([99.99999949, 99.9999995, 99.99999951])
@example([0.1 + 0.2, 0.0001, 9_999_999.9])
@example([math.nextafter(HIGHEST, 0.0)])
def test_ticks_are_the_rounded_prices_and_within_half_a_digit(prices: list[float]) -> None:
    ticks = ticks_of(prices)
    assert ticks.fault() is None
    values = np.asarray(ticks).tolist()
    assert values == round_prices(np.array(prices)).tolist()
    for price, value in zip(prices, values, strict=True):
        whole = max(1, len(str(int(value))))
        assert fits(value)
        assert abs(value - price) <= 0.5 * 10.0 ** (whole - 8) * (1 + 1e-6)


@given(st.lists(PRICES.map(np.float32).filter(lambda price: LOWEST <= float(price) < HIGHEST), min_size=1, max_size=9))
def test_float32_prices_are_rounded_exactly_as_they_are(prices: list[Any]) -> None:
    assert np.asarray(ticks_of(prices, np.float32)).tolist() == round_prices(np.array(prices)).tolist()


def test_a_day_of_paths_in_blocks_is_the_same_as_number_by_number() -> None:
    steps = np.random.default_rng(5).normal(0, 2e-4, (1000, 289)).cumsum(axis=1)
    for spot in (97_352.6, 100_000.0, 0.62):
        paths = (spot * np.exp(steps)).astype(np.float32)
        ticks = ticks_of(paths, np.float32)
        assert isinstance(ticks.decimals, int) == (spot != 100_000.0)
        assert np.array_equal(np.asarray(ticks), round_prices(paths))
        assert fault(request(time_increment=300, time_length=86_400, num_simulations=1000), ticks) is None


@pytest.mark.parametrize(
    "outside",
    [math.nan, math.inf, -math.inf, 0.0, -1.0, -0.0, 9.999e-5, 1e-300, 9_999_999.96, 1e7, 1e16, 1e300],
)
def test_prices_outside_the_domain_are_left_to_the_general_rounding(outside: float) -> None:
    assert to_ticks(np.array([outside])) is None
    assert to_ticks(np.array([100.5, outside, 3.0])) is None


def test_an_empty_array_has_no_ticks() -> None:
    assert to_ticks(np.empty((0, 3))) is None


COUNTS = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 1, 999, 1000, 9_999_999, 10_000_000, 99_999_999, 10**8])


@given(COUNTS, st.integers(1, 7))
def test_the_fault_of_ticks_is_the_plain_rule_of_their_prices(count: int, decimals: int) -> None:
    """What passes is valid by the plain rule; what is valid and stopped is a price in other ticks than its own."""
    ticks = Ticks(np.full((3, 61), count, np.int32), decimals)
    plain = fault(request(), np.asarray(ticks))
    if ticks.fault() is None:
        assert plain is None
        assert fault(request(), ticks) is None
    elif plain is None:
        own = to_ticks(np.asarray(ticks))
        assert own is None or own.counts[0, 0] != count


@given(st.lists(st.tuples(COUNTS, st.integers(0, 9)), min_size=1, max_size=12))
def test_mixed_ticks_have_a_fault_when_one_of_them_has(pairs: list[tuple[int, int]]) -> None:
    counts = np.array([count for count, _ in pairs], np.int32)
    decimals = np.array([places for _, places in pairs], np.uint8)
    alone = [Ticks(counts[i : i + 1], int(decimals[i])).fault() for i in range(len(pairs))]
    assert (Ticks(counts, decimals).fault() is None) == all(found is None for found in alone)


def test_faults_are_told() -> None:
    def told(counts: Any, decimals: Any) -> str:
        return str(Ticks(np.array(counts, np.int32), decimals).fault())

    assert told([0, 50_000_000], 3) == "a price is not positive"
    assert told([-50_000_000], 3) == "a price is not positive"
    assert "eight digits" in told([100_000_000], 3)
    assert "eight digits" in told([9_999_999], 3)
    assert "decimals" in told([12_345_678], 0)
    assert "decimals" in told([12_345_678], 8)
    assert "do not fit" in told([12_345_678], np.array([3, 3], np.uint8))
    assert "do not fit" in told([], 3)


def test_shape_is_checked_before_anything_else() -> None:
    ticks = ticks_of(np.full((3, 60), 100.25))
    assert "shape" in str(fault(request(), ticks))


def test_ticks_become_an_array_only_by_a_copy() -> None:
    ticks = ticks_of([[1.5, 2.5]])
    assert np.asarray(ticks, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.array(ticks, copy=False)
