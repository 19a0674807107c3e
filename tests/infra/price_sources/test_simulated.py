"""Simulated prices: a function of asset and time alone, with the reference volatility."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from infra import bars
from infra.points import priced
from infra.price_sources import SourceError
from infra.price_sources.simulated import LEVEL, SIGMA, WINDOW, Simulated, walk, walk_bars

MINUTES = st.integers(1_577_836_800 // 60, 1_893_456_000 // 60)  # 2020 to 2030


@given(st.sampled_from(sorted(SIGMA)), st.lists(MINUTES, min_size=1, max_size=5), st.integers(0, 59))
def test_a_price_depends_on_its_asset_and_minute_alone(asset: str, minutes: list[int], second: int) -> None:
    together = walk(asset, 60 * np.array(minutes) + second)
    alone = [walk(asset, np.array([60 * minute]))[0] for minute in minutes]
    assert together.tolist() == alone
    assert (together > 0).all()


@pytest.mark.parametrize("asset", ["BTC", "XAU", "HYPE"])
def test_moves_are_gaussian_with_the_reference_volatility_and_join_at_midnight(asset: str) -> None:
    log = np.log(walk(asset, np.arange(WINDOW[0], WINDOW[0] + 100 * 86_400, 60)))
    minute = np.diff(log) / (SIGMA[asset] / np.sqrt(60))
    assert minute.std() == pytest.approx(1.0, abs=0.01)
    assert (np.abs(minute) > 3).mean() == pytest.approx(0.0027, abs=0.0008)
    assert np.abs(minute[1439::1440]).max() < 5.0
    hourly = np.diff(log[::60]) / SIGMA[asset]
    assert hourly.std() == pytest.approx(1.0, abs=0.05)
    assert abs(np.corrcoef(minute[:-1], minute[1:])[0, 1]) < 0.02


def test_assets_move_apart_and_start_at_their_level() -> None:
    times = np.arange(WINDOW[0], WINDOW[1], 60)
    btc, eth = (np.diff(np.log(walk(asset, times))) for asset in ("BTC", "ETH"))
    assert abs(np.corrcoef(btc, eth)[0, 1]) < 0.05
    assert walk("BTC", times)[0] == pytest.approx(LEVEL["BTC"])


@pytest.mark.parametrize("step", [60, 3600])
def test_its_bars_are_clean_and_give_the_walk_as_points(step: int) -> None:
    table = walk_bars("SOL", step, *WINDOW)
    cleaned = bars.clean(table, step)
    assert cleaned.dropped == {}
    assert cleaned.odd == {}
    found = priced(cleaned.bars, step, "round-the-clock")
    assert_array_equal(found.prices, walk("SOL", found.times))
    assert_array_equal(Simulated().history("SOL", step), table)


def test_an_unknown_asset_is_refused() -> None:
    with pytest.raises(SourceError, match="no simulated price for 'DOGE'"):
        walk("DOGE", np.array([0]))
