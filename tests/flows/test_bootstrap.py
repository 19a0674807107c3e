"""The paired bootstrap on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.bootstrap import Change, change_percent, paired_change


def test_a_constant_gain_has_an_interval_of_no_width() -> None:
    base = np.random.default_rng(1).uniform(500, 900, 64)
    found = paired_change(0.95 * base, base, block=6)
    assert (found.percent, found.low, found.high) == pytest.approx((-5.0, -5.0, -5.0), abs=1e-9)


def test_the_change_is_that_of_the_means_not_the_mean_of_changes() -> None:
    base, candidate = np.array([100.0, 900.0]), np.array([200.0, 700.0])
    assert change_percent(candidate, base) == pytest.approx(-10.0)


def test_independent_noise_gives_the_textbook_interval() -> None:
    random = np.random.default_rng(7)
    base = np.full(400, 100.0)
    candidate = base + random.normal(0.0, 10.0, 400)
    found = paired_change(candidate, base, block=1)
    half = 1.96 * candidate.std(ddof=1) / np.sqrt(400)
    assert found.high - found.percent == pytest.approx(half, rel=0.06)
    assert found.percent - found.low == pytest.approx(half, rel=0.06)


def test_overlapping_windows_need_blocks_or_the_interval_is_too_narrow() -> None:
    random = np.random.default_rng(3)
    shared = np.convolve(random.normal(0.0, 10.0, 605), np.ones(6) / np.sqrt(6), "valid")
    base, candidate = np.full(600, 100.0), 100.0 + shared
    narrow = paired_change(candidate, base, block=1)
    wide = paired_change(candidate, base, block=12)
    assert (wide.high - wide.low) > 1.8 * (narrow.high - narrow.low)


def test_the_interval_covers_zero_about_as_often_as_it_says_when_nothing_differs() -> None:
    random = np.random.default_rng(11)
    covered = 0
    for trial in range(200):
        base = random.uniform(80, 120, 60)
        found = paired_change(base + random.normal(0, 5, 60), base, block=1, draws=500, seed=trial)
        covered += found.low <= 0.0 <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    random = np.random.default_rng(5)
    base = random.uniform(500, 900, 40)
    candidate = base + random.normal(0, 30, 40)
    first = paired_change(candidate, base, block=4, seed=9)
    assert first == paired_change(candidate, base, block=4, seed=9)
    assert first != paired_change(candidate, base, block=4, seed=10)


def test_blocks_never_straddle_two_assets() -> None:
    base = np.full(40, 100.0)
    candidate = np.concatenate([np.full(20, 90.0), np.full(20, 110.0)])
    found = paired_change(candidate, base, block=5, groups=["AAPLX"] * 20 + ["BTC"] * 20)
    assert found == Change(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("candidate", "base"),
    [([], []), ([1.0, np.nan], [1.0, 1.0]), ([1.0, 1.0], [1.0, np.inf]), ([1.0, 1.0], [0.0, 0.0])],
)
def test_no_data_is_not_a_number_and_never_a_gain(candidate: list[float], base: list[float]) -> None:
    found = paired_change(np.array(candidate), np.array(base), block=1)
    assert np.isnan([found.percent, found.low, found.high]).all()


def test_one_block_has_no_interval() -> None:
    found = paired_change(np.array([90.0, 95.0]), np.array([100.0, 100.0]), block=6)
    assert found.percent == pytest.approx(-7.5)
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_shapes_must_pair() -> None:
    with pytest.raises(ValueError, match="one shape"):
        paired_change(np.ones(3), np.ones(4), block=1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(10, 1000), min_size=12, max_size=60), st.integers(1, 6), st.integers(0, 5))
def test_an_interval_lies_within_what_was_seen(values: list[float], block: int, seed: int) -> None:
    candidate, base = np.array(values), np.full(len(values), 100.0)
    found = paired_change(candidate, base, block=block, draws=200, seed=seed)
    assert candidate.min() - 100 - 1e-6 <= found.low <= found.high <= candidate.max() - 100 + 1e-6


def test_more_confidence_takes_a_wider_interval_around_the_same_change() -> None:
    random = np.random.default_rng(3)
    base = random.uniform(80.0, 120.0, 60)
    candidate = base * random.normal(0.97, 0.05, 60)

    usual = paired_change(candidate, base, block=2)
    strict = paired_change(candidate, base, block=2, confidence=0.995)

    assert usual.percent == strict.percent
    assert strict.low < usual.low < usual.percent < usual.high < strict.high
