"""Fitting: what each asset gets and why, on real AAPL points and on series that cannot be fitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.triton_models.synth_paths.series import before, hourly, minutes, round_the_clock
from triton_models.synth_paths import garch
from triton_models.synth_paths.model import simulate
from triton_models.synth_paths.train import REFERENCE_SIGMA, FitError, Training, fit

HELD_OUT = 1_785_850_200  # 2026-08-04 09:30 in New York: the first held-out session of synth-high


@pytest.fixture(scope="module")
def aapl() -> dict[str, dict[int, Training]]:
    return {"AAPLX": {3600: before(hourly(), HELD_OUT), 60: before(minutes(), HELD_OUT)}}


@pytest.mark.parametrize("slot", ["synth-high", "synth-low"])
def test_the_gaussian_is_the_reference_miner(slot: str, aapl: Any) -> None:
    params = fit(slot, "gaussian", aapl)
    assert params.assets == {
        asset: {"kind": "gaussian", "sigma_hourly": sigma} for asset, sigma in REFERENCE_SIGMA.items()
    }
    assert len(params.assets) == 12


def test_a_planted_sigma_is_scaled_and_said() -> None:
    params = fit("synth-high", "gaussian", {}, sigma_scale=3.0)
    assert params.assets["BTC"]["sigma_hourly"] == pytest.approx(3 * 0.00541)
    assert "x 3" in params.notes["BTC"]


@pytest.mark.parametrize(("slot", "step", "gaps"), [("synth-high", 60, False), ("synth-low", 3600, True)])
def test_garch_t_is_fitted_where_prices_are_real(slot: str, step: int, gaps: bool, aapl: Any) -> None:
    params = fit(slot, "garch-t", aapl)
    asset = params.assets["AAPLX"]
    assert (asset["kind"], asset["step"], asset["gaps"]) == ("garch-t", step, gaps)
    assert asset["omega"] == pytest.approx(1 - asset["alpha"] - asset["beta"])
    assert 0.02 < asset["alpha"] < 0.2
    assert 0.9 < asset["alpha"] + asset["beta"] < 0.999
    assert 3 < asset["nu"] < 15
    assert 0.004 < asset["sigma_hourly"] < 0.01
    assert asset["profile"]["zone"] == "America/New_York"
    assert params.assets["BTC"] == {"kind": "gaussian", "sigma_hourly": REFERENCE_SIGMA["BTC"]}
    assert "no real points" in params.notes["BTC"]


def test_a_market_round_the_clock_gets_the_day_of_utc() -> None:
    params = fit("synth-low", "garch-t", {"BTC": {3600: round_the_clock(120)}})
    assert params.assets["BTC"]["profile"]["clock"] == "day"
    history = next(example for example in params.examples if example.asset == "BTC")
    got = simulate(params.as_dict(), history.price, history.history, history.start, 300, 86_400, 20, 1, "BTC")
    assert np.isfinite(got).all()


def test_simulated_prices_are_not_learnt_from() -> None:
    made_up = round_the_clock(120)._replace(simulated=True)
    params = fit("synth-low", "garch-t", {"BTC": {3600: made_up}})
    assert params.assets["BTC"]["kind"] == "gaussian"


def test_only_what_is_given_matters(aapl: Any) -> None:
    full = {"AAPLX": {3600: hourly(), 60: minutes()}}
    cut = {"AAPLX": {step: before(points, HELD_OUT) for step, points in full["AAPLX"].items()}}
    assert fit("synth-high", "garch-t", cut).as_dict() == fit("synth-high", "garch-t", aapl).as_dict()
    assert fit("synth-high", "garch-t", full).as_dict() != fit("synth-high", "garch-t", aapl).as_dict()


def test_a_fit_that_cannot_be_trusted_gives_way_and_says_so(aapl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garch, "fit_garch", lambda _: "GARCH-t is not stationary (alpha + beta = 1.0000)")
    params = fit("synth-high", "garch-t", aapl)
    assert params.assets["AAPLX"]["kind"] == "trailing"
    assert params.assets["AAPLX"]["window"] == 390
    assert "not stationary" in params.notes["AAPLX"]
    example = next(e for e in params.examples if e.asset == "AAPLX")
    got = simulate(params.as_dict(), example.price, example.history, example.start, 60, 3600, 20, 1, "AAPLX")
    assert np.isfinite(got).all()


@pytest.mark.parametrize("count", [0, 1, 2, 15, 100])
def test_few_points_never_break_a_fit(count: int) -> None:
    points = minutes()
    few = points._replace(times=points.times[:count], prices=points.prices[:count])
    params = fit("synth-high", "garch-t", {"AAPLX": {60: few}})
    assert params.assets["AAPLX"]["kind"] == ("trailing" if count == 100 else "gaussian")


def test_a_price_that_never_moves_tells_nothing() -> None:
    points = minutes()
    still = points._replace(prices=np.full(len(points.prices), 100.0))
    params = fit("synth-high", "garch-t", {"AAPLX": {60: still}})
    assert params.assets["AAPLX"]["kind"] == "gaussian"


def test_an_unknown_asset_without_a_model_is_left_out_and_said() -> None:
    points = round_the_clock(60)
    nothing = points._replace(times=points.times[:5], prices=points.prices[:5])
    params = fit("synth-low", "garch-t", {"NEW": {3600: points}, "OLD": {3600: nothing}})
    assert params.assets["NEW"]["kind"] == "garch-t"
    assert "OLD" not in params.assets
    assert "left out" in params.notes["OLD"]


def test_examples_are_real_requests_for_every_asset(aapl: Any) -> None:
    params = fit("synth-high", "garch-t", aapl)
    assert {example.asset for example in params.examples} == set(REFERENCE_SIGMA)
    real = [example for example in params.examples if example.asset == "AAPLX"]
    assert len(real) == 3
    for example in real:
        ago, logs = example.history[:, np.isfinite(example.history).all(axis=0)]
        assert example.start % 60 == 0
        assert 0 < ago[-1] <= 60
        assert logs[-1] == 0.0
        assert (np.diff(ago) < 0).all()
    for example in params.examples:
        simulate(params.as_dict(), example.price, example.history, example.start, 60, 3600, 2, 1, example.asset)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prices": np.array([1.0, np.nan, 1.0])}, "missing, zero or negative"),
        ({"prices": np.array([1.0, 0.0, 1.0])}, "missing, zero or negative"),
        ({"times": np.array([0, 120, 60])}, "times must rise"),
        ({"prices": np.array([1.0])}, "times must rise"),
    ],
)
def test_garbled_prices_are_refused(change: dict[str, Any], says: str) -> None:
    good = Training(np.array([0, 60, 120]), np.array([1.0, 2.0, 1.0]), 60, simulated=False, proxy=True)
    with pytest.raises(FitError, match=f"AAPLX.*{says}"):
        fit("synth-high", "garch-t", {"AAPLX": {60: good._replace(**change)}})


@pytest.mark.parametrize(
    ("slot", "model", "scale"),
    [("synth-mid", "gaussian", 1.0), ("synth-low", "gaussian", 0.0), ("synth-low", "gaussian", float("nan")),
     ("synth-low", "garch-t", 2.0)],
)  # fmt: skip
def test_a_wrong_request_is_refused(slot: str, model: Any, scale: float) -> None:
    with pytest.raises(FitError):
        fit(slot, model, {}, sigma_scale=scale)
