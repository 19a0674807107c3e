"""Rounding by the eight-character rule: whatever is encoded is kept by the validator's count."""

from __future__ import annotations

import math

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.subnets.synth.digits import fits, round_prices, too_long

REPRESENTABLE = st.floats(1e-290, 9_999_999.9, allow_nan=False)


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (98765.4321, "98765.432"),
        (0.52345678, "0.5234568"),
        (1.23456789, "1.2345679"),
        (100000.0, "100000.0"),
        (1234567.89, "1234567.9"),
        (9.99999996, "10.0"),
        (99999.99996, "100000.0"),
        (0.99999999, "1.0"),
        (1.23456e-05, "1.235e-05"),
        (4e-08, "4e-08"),
        (9.99996e-05, "0.0001"),
        (1.23456e-120, "1.23e-120"),
        (9.9999e-100, "1e-99"),
    ],
)
def test_named_prices(price: float, text: str) -> None:
    (rounded,) = round_prices(np.array([price])).tolist()
    assert str(rounded) == text
    assert fits(rounded)


@given(st.lists(REPRESENTABLE, min_size=1, max_size=20))
@example([0.5, 97000.123456, 1.1, 1e-5])
@example([9_999_999.94])
def test_every_encoded_price_is_kept_by_the_count(prices: list[float]) -> None:
    rounded = round_prices(np.array(prices))
    assert not too_long(rounded).any()
    for sent in orjson.loads(orjson.dumps(rounded, option=orjson.OPT_SERIALIZE_NUMPY)):
        assert len(str(sent).replace(".", "")) <= 8
    assert (rounded > 0).all()


@given(st.lists(st.floats(width=32, allow_nan=False, min_value=2.0**-99, max_value=9e6), min_size=1, max_size=9))
def test_float32_prices_as_a_model_gives_them(prices: list[float]) -> None:
    given32 = np.array(prices, dtype=np.float32)
    rounded = round_prices(given32)
    assert not too_long(rounded).any()
    exact = given32.astype(np.float64)
    assert np.all(np.abs(rounded - exact) <= np.maximum(6e-4 * exact, 0) + 1e-300)


@given(st.lists(st.floats(), min_size=1, max_size=20))
@example([math.nan, 100.5])
@example([97352.6061, 97352.606])
@example([1e16, 1e22, 12345678.0, 1234567.0])
@example([0.0, -0.0, -1234567.8, -123456.7])
@example([0.1 + 0.2, 1 / 3, 1.2345e-05, 1.234e-05])
def test_the_array_rule_is_the_count(prices: list[float]) -> None:
    assert too_long(np.array(prices)).tolist() == [not fits(price) for price in prices]


@given(st.integers(1, 99_999_999), st.integers(0, 12))
def test_the_array_rule_is_the_count_on_short_decimals(digits: int, decimals: int) -> None:
    price = float(f"{digits}e-{decimals}")
    beside = math.nextafter(price, math.inf)
    assert too_long(np.array([price, beside])).tolist() == [not fits(price), not fits(beside)]


@given(REPRESENTABLE)
def test_rounding_twice_changes_nothing(price: float) -> None:
    once = round_prices(np.array([price]))
    assert round_prices(once).tolist() == once.tolist()


def test_prices_that_have_no_short_text_are_found() -> None:
    rounded = round_prices(np.array([12345678.9, 9_999_999.96, 123456789.0]))
    assert too_long(rounded).tolist() == [True, True, True]


def test_an_empty_array_stays_one() -> None:
    assert round_prices(np.empty((0, 0))).shape == (0, 0)
    assert too_long(np.empty(0)).size == 0


def test_shape_and_order_are_kept() -> None:
    paths = np.asfortranarray(np.random.default_rng(1).lognormal(5, 1, (7, 5)))
    rounded = round_prices(paths)
    assert rounded.shape == (7, 5)
    assert rounded.flags.c_contiguous
    np.testing.assert_allclose(rounded, paths, rtol=1e-6)
