"""The field: shapes, seeds, the reference's sigma, and a trailing sigma that keeps the session clock."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from serving.errors import UserError
from serving.state import AssetPrices, Points, PriceBook
from serving.subnets.synth.baselines import FIELD, bar_clock
from serving.subnets.synth.rules import ASSETS
from serving.types import Asset

NEW_YORK = ZoneInfo("America/New_York")
BTC, AAPLX = Asset("BTC"), Asset("AAPLX")


def _new_york(day: int, hour: int, minute: int) -> int:
    return int(datetime(2026, 8, day, hour, minute, tzinfo=NEW_YORK).timestamp())


MONDAY = _new_york(3, 9, 30)


def _book(asset: Asset = BTC, spot: float = 250.0, proxy: bool = False, **history: Points) -> PriceBook:
    steps = {name.removeprefix("s"): points for name, points in history.items()}
    known = AssetPrices(spot, MONDAY, "packaged", False, proxy, steps)
    return PriceBook(as_of=float(MONDAY), written_at=0.0, assets={asset: known})


def _sawtooth(times: list[int], change: float) -> Points:
    """Prices that go up and down by the same log change."""
    return Points(times, [100.0 * float(np.exp(change * (number % 2))) for number in range(len(times))])


@pytest.mark.parametrize("name", FIELD)
@pytest.mark.parametrize(("increment", "length"), [(300, 86_400), (60, 3600)])
def test_shape_start_and_seed(name: str, increment: int, length: int) -> None:
    paths = FIELD[name](BTC, _book(), MONDAY, increment, length, 50, 7)
    assert paths.shape == (50, length // increment + 1)
    assert (paths[:, 0] == 250.0).all()
    assert (paths > 0).all()
    assert np.array_equal(paths, FIELD[name](BTC, _book(), MONDAY, increment, length, 50, 7))
    other = FIELD[name](BTC, _book(), MONDAY, increment, length, 50, 8)
    assert np.array_equal(paths, other) == (name == "flat")


@pytest.mark.parametrize(
    ("name", "scale"), [("reference-gaussian", 1.0), ("reference-half", 0.5), ("reference-double", 2)]
)
def test_the_reference_has_the_subnets_hourly_sigma(name: str, scale: float) -> None:
    paths = FIELD[name](BTC, _book(), MONDAY, 60, 3600, 4000, 1)
    hourly = np.std(paths[:, -1] / paths[:, 0] - 1)
    assert hourly == pytest.approx(ASSETS[BTC].sigma * scale, rel=0.05)


def test_the_field_is_named_and_the_reference_comes_first() -> None:
    assert list(FIELD)[:2] == ["reference-gaussian", "trailing-sigma"]


def test_trailing_sigma_is_the_last_bars_own() -> None:
    times = [MONDAY - 60 * ago for ago in range(500, -1, -1)]
    paths = FIELD["trailing-sigma"](BTC, _book(s60=_sawtooth(times, 0.002)), MONDAY, 60, 3600, 4000, 1)
    minute = np.std(np.diff(paths, axis=1) / paths[:, :-1])
    assert minute == pytest.approx(0.002, rel=0.01)


def test_too_short_or_broken_a_history_falls_back_to_the_reference() -> None:
    times = [MONDAY - 60 * ago for ago in range(300, -1, -1)]
    wanted = FIELD["reference-gaussian"](BTC, _book(), MONDAY, 60, 3600, 10, 3)
    for points in (_sawtooth(times, 0.002), Points([], [])):
        found = FIELD["trailing-sigma"](BTC, _book(s60=points), MONDAY, 60, 3600, 10, 3)
        assert np.array_equal(found, wanted)


def test_a_night_is_no_minute_and_a_closing_price_is_no_hourly_bar() -> None:
    sessions = [(_new_york(3, 9, 30) - day * 86_400, _new_york(3, 16, 0) - day * 86_400) for day in range(40, 0, -1)]
    minutes = [t for opens, closes in sessions[-2:] for t in range(opens, closes, 60)]
    prices = [100.0 * float(np.exp(0.001 * (i % 2) + 0.5 * (i >= 390))) for i in range(len(minutes))]
    paths = FIELD["trailing-sigma"](AAPLX, _book(AAPLX, s60=Points(minutes, prices)), MONDAY, 60, 3600, 4000, 1)
    assert np.std(np.diff(paths, axis=1) / paths[:, :-1]) == pytest.approx(0.001, rel=0.02)
    hours: list[int] = []
    levels: list[float] = []
    for day, (opens, closes) in enumerate(sessions):
        hours += [*(opens + bar * 3600 for bar in range(7)), closes]
        levels += [*(100.0 * float(np.exp(0.01 * ((day + bar) % 2))) for bar in range(7)), 300.0]
    book = _book(AAPLX, proxy=True, s3600=Points(hours, levels))
    paths = FIELD["trailing-sigma"](AAPLX, book, MONDAY, 300, 86_400, 4000, 1)
    changes = np.log(paths[:, 12::12] / paths[:, :-12:12])
    assert np.std(changes[:, 0]) == pytest.approx(0.01, rel=0.05)
    assert np.std(np.log(paths[:, -1] / paths[:, 0])) == pytest.approx(0.01 * np.sqrt(7), rel=0.05)
    assert (paths[:, 78:] == paths[:, 78:79]).all()


def test_the_session_clock() -> None:
    day = bar_clock(MONDAY, 300, 86_400, 3600, sessions=True)
    assert day.sum() == pytest.approx(7)
    assert day[:72] == pytest.approx(np.full(72, 1 / 12))
    assert day[72:78] == pytest.approx(np.full(6, 1 / 6))
    assert not day[78:].any()
    quarter_to_four = bar_clock(_new_york(7, 15, 45), 300, 86_400, 3600, sessions=True)
    assert quarter_to_four.sum() == pytest.approx(0.5)
    half_past_nine = bar_clock(MONDAY - 1800, 60, 3600, 60, sessions=True)
    assert half_past_nine == pytest.approx(np.repeat([0.0, 1.0], 30))
    assert not bar_clock(_new_york(8, 12, 0), 300, 86_400, 3600, sessions=True).any()
    assert bar_clock(MONDAY, 300, 86_400, 3600, sessions=False).sum() == pytest.approx(24)


def test_a_closed_market_ahead_falls_back_to_the_reference() -> None:
    times = [MONDAY - 3600 * ago for ago in range(200, -1, -1)]
    book, saturday = _book(AAPLX, proxy=True, s3600=_sawtooth(times, 0.01)), _new_york(8, 12, 0)
    found = FIELD["trailing-sigma"](AAPLX, book, saturday, 300, 86_400, 10, 3)
    assert np.array_equal(found, FIELD["reference-gaussian"](AAPLX, book, saturday, 300, 86_400, 10, 3))


def test_an_asset_that_is_not_in_the_book_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="has no AAPLX"):
        FIELD["flat"](AAPLX, _book(), MONDAY, 60, 3600, 5, 1)
