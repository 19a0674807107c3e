"""What Triton runs, as a plain function: invariance, direction, minimum functionality, statistics with fixed seeds."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.triton_models.synth_paths.series import garch_returns, hourly
from triton_models.synth_paths import model
from triton_models.synth_paths.model import BadInput, simulate, variance_clock

NEW_YORK = ZoneInfo("America/New_York")
OPEN = int(datetime(2026, 7, 28, 9, 30, tzinfo=NEW_YORK).timestamp())  # a Tuesday
SESSION = {
    "clock": "session", "zone": "America/New_York", "open": 34_200, "close": 57_600,
    "weights": [2.5, 1.0, 0.7, 0.6, 0.7, 0.7, 0.8], "overnight": 3.0, "weekend": 5.0,
}  # fmt: skip
CLOCKED = {"sigma_hourly": 0.005, "profile": SESSION}
GARCH = {"kind": "garch-t", "omega": 0.03, "alpha": 0.08, "beta": 0.89, "nu": 5.0, **CLOCKED}
PARAMS: dict[str, Any] = {
    "assets": {
        "GAUSS": {"kind": "gaussian", "sigma_hourly": 0.00541},
        "HOURS": {**GARCH, "step": 3600, "gaps": True},
        "MINUTES": {**GARCH, "step": 60, "gaps": False},
        "TRAIL": {"kind": "trailing", "step": 60, "gaps": False, "window": 60, **CLOCKED},
    }
}
LOW, HIGH = (300, 86_400), (60, 3_600)
NOTHING = np.full((2, 512), np.nan, dtype=np.float32)


def paths(asset: str, grid: tuple[int, int] = HIGH, *, history: Any = NOTHING, n: int = 1000, **more: Any) -> Any:
    """`simulate` with the arguments a test does not care about filled in."""
    given_ = {"params": PARAMS, "price": 100.0, "start": OPEN, "seed": 7, **more}
    return simulate(history=history, increment=grid[0], length=grid[1], n=n, asset=asset, **given_)


def minute_history(scale: float, count: int = 300) -> npt.NDArray[np.float32]:
    """One-minute points before noon in New York whose returns have `scale` times the long-run standard deviation."""
    clock = variance_clock(SESSION, 60)
    times = OPEN + 9000 - 60 * np.arange(count)[::-1]
    steps = np.sqrt(clock.between(times)) * 0.005 * scale * np.where(np.arange(count - 1) % 2, 1, -1)
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    history = np.full((2, 512), np.nan, dtype=np.float32)
    history[0, -count:] = OPEN + 9000 - times
    history[1, -count:] = logs - logs[-1]
    return history


# ---- minimum functionality


@pytest.mark.parametrize("asset", list(PARAMS["assets"]))
@pytest.mark.parametrize("grid", [LOW, HIGH])
@pytest.mark.parametrize("n", [1, 1000])
def test_paths_have_the_shape_the_type_and_the_spot_first(asset: str, grid: tuple[int, int], n: int) -> None:
    got = paths(asset, grid, n=n)
    assert got.dtype == np.float32
    assert got.shape == (n, grid[1] // grid[0] + 1)
    assert got.flags.c_contiguous
    assert (got[:, 0] == np.float32(100.0)).all()
    assert np.isfinite(got).all()
    assert (got > 0).all()


def test_the_whole_day_of_a_weekend_moves_the_price() -> None:
    saturday = int(datetime(2026, 8, 1, 12, 0, tzinfo=NEW_YORK).timestamp())
    assert (np.diff(paths("HOURS", LOW, start=saturday), axis=1) != 0).mean() > 0.99


@pytest.mark.parametrize("asset", ["HOURS", "MINUTES"])
@pytest.mark.parametrize("month_day", [(3, 7), (10, 31)])
def test_a_day_on_which_the_clock_is_set(asset: str, month_day: tuple[int, int]) -> None:
    start = int(datetime(2026, *month_day, 22, 0, tzinfo=NEW_YORK).timestamp())
    got = paths(asset, LOW, start=start, n=50)
    assert np.isfinite(got).all()
    assert got[:, -1].std() > 0


# ---- statistics


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_reference_has_its_hourly_sigma(seed: int) -> None:
    hour = np.concatenate([paths("GAUSS", HIGH, seed=100 * seed + k)[:, -1] for k in range(20)]) / 100 - 1
    # a product of (1 + e): variance (1 + s^2 / 60)^60 - 1
    expected = np.sqrt((1 + 0.00541**2 / 60) ** 60 - 1)
    assert hour.std() == pytest.approx(expected, abs=3 * expected / np.sqrt(2 * len(hour)))


def test_the_reference_follows_the_reference_miners_formula() -> None:
    """price * cumprod(1 + N(0, sigma * sqrt(increment / 3600))), as in the subnet's repository."""
    rng = np.random.Generator(np.random.Philox(key=7))
    steps = rng.standard_normal((288, 1000), dtype=np.float32).astype(float) * 0.00541 * np.sqrt(300 / 3600)
    np.testing.assert_allclose(paths("GAUSS", LOW)[:, 1:], 100 * np.cumprod(1 + steps, axis=0).T, rtol=3e-6)


@pytest.mark.parametrize(("asset", "grid"), [("GAUSS", LOW), ("HOURS", LOW), ("MINUTES", HIGH), ("TRAIL", HIGH)])
def test_the_price_is_a_martingale(asset: str, grid: tuple[int, int]) -> None:
    ends = np.concatenate([paths(asset, grid, seed=seed)[:, -1].astype(float) for seed in range(40)])
    assert ends.mean() == pytest.approx(100.0, abs=3 * ends.std() / np.sqrt(len(ends)))


def test_a_student_t_hour_has_the_variance_of_the_clock() -> None:
    clock = variance_clock(SESSION, 3600)
    first_hour = clock.between(np.array([OPEN, OPEN + 3600]))[0] * 0.005**2
    ends = np.concatenate([paths("HOURS", LOW, seed=seed)[:, 12].astype(float) for seed in range(60)])
    logs = np.log(ends / 100)
    kurtosis = ((logs - logs.mean()) ** 4).mean() / logs.var() ** 2
    error = np.sqrt((kurtosis - 1) / len(logs)) * first_hour
    assert logs.var() == pytest.approx(first_hour, abs=3 * error)
    assert kurtosis > 4


@pytest.mark.parametrize(("asset", "grid", "step"), [("HOURS", LOW, 12), ("MINUTES", HIGH, 1)])
def test_garch_t_has_fat_tails_and_clusters(asset: str, grid: tuple[int, int], step: int) -> None:
    logs = np.concatenate([np.log(paths(asset, grid, seed=seed)[:, ::step].astype(float)) for seed in range(20)])
    returns = np.diff(logs, axis=1)
    returns /= returns.std(axis=0)  # the time of day out
    assert (returns**4).mean() > 4
    squares = np.minimum(returns**2, 25)
    assert np.corrcoef(squares[:, :-1].ravel(), squares[:, 1:].ravel())[0, 1] > 0.02
    assert abs(np.corrcoef(returns[:, :-1].ravel(), returns[:, 1:].ravel())[0, 1]) < 0.02


def test_the_grid_may_be_finer_than_the_bars() -> None:
    """Five-minute steps share the variance of their hour, so that two of them have the clock's ratio of variances."""
    logs = np.concatenate([np.log(paths("HOURS", LOW, seed=seed).astype(float)) for seed in range(40)])
    spread = np.diff(logs, axis=1).var(axis=0)
    clock = variance_clock(SESSION, 3600).between(OPEN + 300 * np.arange(289))
    assert np.corrcoef(spread, clock)[0, 1] > 0.99
    night = slice(80, 280)
    assert spread[night].mean() / spread[:12].mean() == pytest.approx(clock[night].mean() / clock[:12].mean(), rel=0.15)


# ---- direction


@pytest.mark.parametrize("asset", ["MINUTES", "TRAIL"])
def test_a_wilder_history_gives_wider_paths(asset: str) -> None:
    at = {"start": OPEN + 9000}
    widths = [paths(asset, HIGH, history=minute_history(scale), **at)[:, -1].std() for scale in (0.5, 1.0, 2.0)]
    assert all(narrow * 1.15 < wide for narrow, wide in pairwise(widths))


def test_the_first_hour_is_wider_than_lunch() -> None:
    early, noon = (paths("MINUTES", start=OPEN + late)[:, -1].std() for late in (0, 9000))
    assert early > 1.5 * noon


def test_volatility_returns_to_its_long_run_level() -> None:
    def ratio(part: slice) -> float:
        wild = paths("MINUTES", history=minute_history(3.0), start=OPEN + 9000)
        calm = paths("MINUTES", history=minute_history(1.0), start=OPEN + 9000)
        return float(np.diff(np.log(wild), axis=1)[:, part].std() / np.diff(np.log(calm), axis=1)[:, part].std())

    assert ratio(slice(0, 5)) > 1.2 * ratio(slice(50, 60))


@pytest.mark.parametrize("asset", ["GAUSS", "HOURS"])
def test_a_larger_sigma_gives_wider_paths(asset: str) -> None:
    wide = {"assets": {asset: {**PARAMS["assets"][asset], "sigma_hourly": 0.02}}}
    assert paths(asset, LOW, params=wide)[:, -1].std() > 2 * paths(asset, LOW)[:, -1].std()


# ---- invariance


@given(seed=st.integers(0, 2**64 - 1), asset=st.sampled_from(list(PARAMS["assets"])), n=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_the_same_request_gives_the_same_bytes(seed: int, asset: str, n: int) -> None:
    assert paths(asset, seed=seed, n=n).tobytes() == paths(asset, seed=seed, n=n).tobytes()


def test_another_seed_gives_other_paths() -> None:
    assert not np.array_equal(paths("HOURS", seed=1), paths("HOURS", seed=2))


@pytest.mark.parametrize("asset", list(PARAMS["assets"]))
def test_the_price_only_scales_the_paths(asset: str) -> None:
    np.testing.assert_array_equal(paths(asset, price=128.0), paths(asset, price=64.0) * 2)


def test_padding_and_holes_in_history_are_not_prices() -> None:
    history = minute_history(2.0, count=200)
    infinite = np.where(np.isnan(history), np.float32(np.inf), history)
    at: dict[str, Any] = {"start": OPEN + 9000}
    np.testing.assert_array_equal(
        paths("MINUTES", history=history, **at), paths("MINUTES", history=history[:, -200:], **at)
    )
    np.testing.assert_array_equal(paths("MINUTES", history=history, **at), paths("MINUTES", history=infinite, **at))


def test_a_bad_tick_does_not_blow_the_paths_up() -> None:
    history = minute_history(1.0)
    history[1, -2] = 12.0
    got = paths("MINUTES", history=history, start=OPEN + 9000)
    assert np.isfinite(got).all()
    assert (got > 0).all()
    assert got[:, -1].std() < 20


@pytest.mark.parametrize("asset", ["HOURS", "MINUTES", "TRAIL"])
def test_no_history_means_the_long_run_variance(asset: str) -> None:
    clock = variance_clock(SESSION, 60)
    assert model.variance_now(PARAMS["assets"][asset], model.read_history(NOTHING, OPEN), clock) == 1.0


# ---- bad inputs


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"price": 0.0}, "PRICE"),
        ({"price": -1.0}, "PRICE"),
        ({"price": float("nan")}, "PRICE"),
        ({"price": float("inf")}, "PRICE"),
        ({"n": 0}, "N must"),
        ({"n": 1001}, "N must"),
        ({"grid": (0, 3600)}, "GRID"),
        ({"grid": (-60, 3600)}, "GRID"),
        ({"grid": (60, 3601)}, "GRID"),
        ({"grid": (60, 0)}, "GRID"),
        ({"grid": (1, 86_400)}, "GRID"),
        ({"start": -1}, "START"),
        ({"start": 2**40}, "START"),
        ({"asset": "DOGE"}, "ASSET"),
        ({"history": np.array([[60.0, 120.0], [0.0, 0.0]])}, "HISTORY"),
        ({"history": np.array([[60.0, -60.0], [0.0, 0.0]])}, "HISTORY"),
        ({"history": np.array([[60.0, 60.0], [0.0, 0.0]])}, "HISTORY"),
    ],
)
def test_a_bad_input_is_told_in_one_short_line(more: dict[str, Any], says: str) -> None:
    given_ = {"asset": "MINUTES", "n": 10, **more}
    with pytest.raises(BadInput, match=says) as told:
        paths(**given_)
    assert len(str(told.value)) < 100
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "oracle"}, {"sigma_hourly": 0.0}, {"sigma_hourly": float("nan")}, {"sigma_hourly": 3.0},
        {"omega": 0.0}, {"alpha": -0.1}, {"alpha": 0.2}, {"nu": 2.0}, {"profile": {**SESSION, "overnight": -1.0}},
        {"profile": {**SESSION, "clock": "sun"}}, {"profile": {**SESSION, "weights": [float("nan")]}},
    ],
)  # fmt: skip
def test_parameters_that_cannot_be_simulated_are_refused_at_load(change: dict[str, Any]) -> None:
    model.check_params(PARAMS)
    with pytest.raises(BadInput):
        model.check_params({"assets": {"X": {**PARAMS["assets"]["HOURS"], **change}}})


# ---- clock and filter


def test_the_session_clock_adds_up() -> None:
    clock = variance_clock(SESSION, 3600)
    close = OPEN + 6 * 3600 + 1800
    friday_close, monday = close + 3 * 86_400, OPEN + 6 * 86_400
    session, night, _, weekend = clock.between(np.array([OPEN, close, OPEN + 86_400, friday_close, monday]))
    assert session == pytest.approx(6.5)
    assert night == pytest.approx(3.0)
    assert weekend == pytest.approx(5.0)
    week = clock.between(np.array([OPEN, OPEN + 7 * 86_400]))[0]
    assert week == pytest.approx(5 * 6.5 + 4 * 3.0 + 5.0)


def test_the_night_is_one_bar_and_the_session_has_seven() -> None:
    clock = variance_clock(SESSION, 3600)
    times = OPEN + 300 * np.arange(7 * 288)
    lengths = np.unique(clock.bar_of(times), return_counts=True)[1].tolist()
    hours, night, weekend = [12] * 6 + [6], 210, 786
    assert lengths == [*hours, night] * 3 + [*hours, weekend] + [*hours, night]


def test_a_day_clock_repeats_and_a_flat_one_is_time() -> None:
    weights = [0.5] * 12 + [1.5] * 12
    clock = variance_clock({"clock": "day", "zone": "UTC", "weights": weights}, 3600)
    midnight = int(datetime(2026, 7, 28, tzinfo=UTC).timestamp())
    times = midnight + 43_200 * np.arange(15)
    np.testing.assert_allclose(clock.between(times), [6.0, 18.0] * 7)
    np.testing.assert_allclose(variance_clock({"clock": "flat"}, 60).between(times), 12.0)
    assert len(set(clock.bar_of(midnight + 300 * np.arange(288)).tolist())) == 24


def test_winter_time_moves_the_session_by_an_hour() -> None:
    clock = variance_clock(SESSION, 3600)
    summer, winter = (datetime(2026, month, 13, 14, 0, tzinfo=UTC).timestamp() for month in (7, 1))
    moved = [clock.between(np.array([int(at), int(at) + 900]))[0] for at in (summer, winter)]
    assert moved[0] > 10 * moved[1]  # 10:00 in New York, and 09:00


def test_the_filter_is_archs_conditional_variance() -> None:
    import arch

    returns = garch_returns(1500, alpha=0.09, beta=0.88, nu=6, seed=5)
    fitted = arch.arch_model(returns, mean="Zero", vol="GARCH", p=1, q=1, dist="t", rescale=False).fit(
        disp="off", show_warning=False
    )
    omega, alpha, beta = (fitted.params[name] for name in ("omega", "alpha[1]", "beta[1]"))
    squares = returns**2
    first = model.backcast(squares)
    ours = model.conditional_variance(squares.tolist(), omega=omega, alpha=alpha, beta=beta, first=first)
    np.testing.assert_allclose(ours[:-1], fitted.conditional_volatility**2, rtol=1e-9)


def test_real_history_is_filtered_as_it_was_fitted() -> None:
    """The squared returns that a request's HISTORY gives are those of the series itself, nights included."""
    points = hourly()
    end = 2000
    start, spot = int(points.times[end]), float(points.prices[end])
    history = np.full((2, 512), np.nan, dtype=np.float32)
    history[0] = start - points.times[end - 511 : end + 1]
    history[1] = np.log(points.prices[end - 511 : end + 1] / spot)
    clock = variance_clock(SESSION, 3600)
    got = model.squared_returns(model.read_history(history, start), clock, 0.005, 3600, gaps=True)
    variance = clock.between(points.times[end - 511 : end + 1]) * 0.005**2
    expected = np.diff(np.log(points.prices[end - 511 : end + 1])) ** 2 / variance
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-7)
