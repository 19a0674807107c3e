"""Fit price-path models: the reference miner's Gaussian, or GARCH-t on a variance clock, one set of numbers an asset.

Only what is handed in is looked at. A fit that does not converge, or that is not stationary, gives way to the simpler
trailing-sigma model, and the parameters say so in their notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from triton_models.synth_paths import garch, profile
from triton_models.synth_paths.model import F32, check_params, variance_clock

FAMILY = "synth_paths"
GRIDS = {"synth-low": (300, 86_400), "synth-high": (60, 3_600)}
"""Increment and length of each slot's answers, seconds."""
STEPS = {"synth-low": 3_600, "synth-high": 60}
"""Seconds between the points of HISTORY, which is also the length of a model's bar."""
HISTORY_POINTS = 512

REFERENCE_SIGMA = {
    "BTC": 0.00541, "ETH": 0.00766, "XAU": 0.00312, "SOL": 0.00858, "SPYX": 0.00157, "NVDAX": 0.00338,
    "TSLAX": 0.00337, "AAPLX": 0.00259, "GOOGLX": 0.00322, "XRP": 0.00956, "HYPE": 0.01131, "WTIOIL": 0.00639,
}  # fmt: skip
"""Hourly sigma of the subnet's reference miner."""
TRAILING_WINDOW = {"synth-low": 140, "synth-high": 390}
"""Bars whose mean square is the fallback's variance: twenty sessions of hours, one session of minutes."""
FEWEST_RETURNS = 20
"""Below this no model is fitted."""
WARMUP_START = 1_760_000_040
"""Start (unix s) of the warm-up request of an asset that has no prices; any whole minute does."""

Model = Literal["gaussian", "garch-t"]


class FitError(ValueError):
    """Training data that no model can be fitted to: one line saying which asset and why."""


class Training(NamedTuple):
    """The points of one asset at one step that a fit may see."""

    times: npt.NDArray[np.int64]
    """Unix seconds, oldest first."""
    prices: npt.NDArray[np.float64]
    step: int
    """Seconds between neighbours where nothing is missing."""
    simulated: bool
    proxy: bool
    """Session bars that stand for an asset which trades round the clock."""


class Example(NamedTuple):
    """The inputs of one real request, for warming up."""

    asset: str
    price: float
    history: F32
    """(2, 512), as the HISTORY tensor."""
    start: int
    """Unix s."""


@dataclass(frozen=True)
class Params:
    """A fitted model: all that ``params.json`` holds, and examples for warming up."""

    slot: str
    model: Model
    assets: dict[str, dict[str, Any]]
    """What `model.simulate` reads, by asset."""
    notes: dict[str, str]
    """Where each asset's numbers come from, in words."""
    examples: tuple[Example, ...] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """``params.json``."""
        return {"family": FAMILY, "slot": self.slot, "model": self.model, "assets": self.assets, "notes": self.notes}


def fit(
    slot: str,
    model: Model,
    training: Mapping[str, Mapping[int, Training]],
    *,
    sigma_scale: float = 1.0,
    seed: int = 0,
) -> Params:
    """Parameters for every asset of the reference miner, and for any other that has real prices in `training`.

    ``gaussian`` is the reference miner itself, its sigma times `sigma_scale`: nothing is fitted. ``garch-t`` fits the
    assets that have real points at the slot's step and keeps the reference sigma for the rest. `training` maps asset
    to step (seconds) to points. `seed` is unused by both, whose fits draw nothing. Raises FitError.
    """
    if slot not in STEPS:
        raise FitError(f"slot {slot!r} is not one of {', '.join(STEPS)}")
    if not (np.isfinite(sigma_scale) and sigma_scale > 0):
        raise FitError("sigma_scale must be positive and finite")
    if model != "gaussian" and sigma_scale != 1.0:
        raise FitError(f"sigma_scale is for the gaussian model; {model} takes its level from the prices")
    real = {asset: _real(asset, series) for asset, series in training.items()}
    assets: dict[str, dict[str, Any]] = {}
    notes: dict[str, str] = {}
    for asset in sorted({*REFERENCE_SIGMA, *real}):
        fitted, note = (None, "as asked") if model == "gaussian" else _fit_asset(slot, real.get(asset, {}))
        if fitted is not None:
            assets[asset], notes[asset] = fitted, note
        elif asset in REFERENCE_SIGMA:
            assets[asset] = {"kind": "gaussian", "sigma_hourly": REFERENCE_SIGMA[asset] * sigma_scale}
            notes[asset] = f"reference sigma x {sigma_scale:g}: {note}"
        else:
            notes[asset] = f"left out, the reference miner has no sigma for it: {note}"
    params = Params(slot, model, assets, notes, _examples(slot, assets, real))
    check_params(params.as_dict())
    return params


def _real(asset: str, series: Mapping[int, Training]) -> dict[int, Training]:
    """The series that hold real prices, checked."""
    kept = {step: points for step, points in series.items() if not points.simulated and len(points.times)}
    for step, points in kept.items():
        if len(points.times) != len(points.prices) or (np.diff(points.times) <= 0).any():
            raise FitError(f"{asset} at {step} s: times must rise, one for each price")
        if not (np.isfinite(points.prices).all() and (points.prices > 0).all()):
            raise FitError(f"{asset} at {step} s: a price is missing, zero or negative; clean the series first")
    return kept


def _fit_asset(slot: str, series: Mapping[int, Training]) -> tuple[dict[str, Any] | None, str]:
    """One asset's numbers and, in words, their source; the trailing-sigma model when GARCH-t cannot be trusted."""
    step = STEPS[slot]
    if step not in series:
        return None, f"no real points of {step} s"
    points, shape_from = series[step], series.get(3_600, series[step])
    if len(points.times) <= FEWEST_RETURNS or not np.ptp(points.prices) or not np.ptp(shape_from.prices):
        return None, f"{len(points.times)} points of {step} s tell nothing"
    shape = (profile.session_profile if points.proxy else profile.day_profile)(shape_from.times, shape_from.prices)
    gaps = step >= 3_600  # a night is one bar among hours; among minutes it says nothing of the next minute
    returns = scaled_returns(points, shape, gaps)
    if len(returns) < FEWEST_RETURNS:
        return None, f"{len(returns)} returns over {step} s are too few"
    fitted = garch.fit_garch(returns)
    common = {"step": step, "gaps": gaps, "profile": shape}
    if isinstance(fitted, str):
        sigma = round(float(np.sqrt(np.mean(returns**2))), 9)
        trailing = {"kind": "trailing", "sigma_hourly": sigma, "window": TRAILING_WINDOW[slot], **common}
        return trailing, f"trailing sigma: {fitted}"
    return {
        "kind": "garch-t",
        "sigma_hourly": round(float(np.sqrt(fitted.level)), 9),
        "omega": fitted.omega,
        "alpha": fitted.alpha,
        "beta": fitted.beta,
        "nu": fitted.nu,
        **common,
    }, fitted.note


def scaled_returns(points: Training, shape: Mapping[str, Any], gaps: bool) -> npt.NDArray[np.float64]:
    """Log returns divided by the square root of the clock's hours they span; a return over a gap only if `gaps`."""
    hours = variance_clock(shape, points.step).between(points.times)
    use = hours > 0
    if not gaps:
        use &= np.diff(points.times) == points.step
    returns: npt.NDArray[np.float64] = np.diff(np.log(points.prices))[use] / np.sqrt(hours[use])
    return returns


def history_tensor(times: npt.NDArray[np.int64], prices: npt.NDArray[np.float64], start: int, spot: float) -> F32:
    """HISTORY (2, 512) for a request at `start` (unix s) with price `spot`, from the points at or before `start`."""
    known = np.flatnonzero(times <= start)[-HISTORY_POINTS:]
    history = np.full((2, HISTORY_POINTS), np.nan, dtype=np.float32)
    if len(known):
        history[0, -len(known) :] = start - times[known]
        history[1, -len(known) :] = np.log(prices[known] / spot)
    return history


def _examples(slot: str, assets: Mapping[str, Any], real: Mapping[str, Mapping[int, Training]]) -> tuple[Example, ...]:
    """Requests to warm up with: three moments of each real series, and one without history for every other asset."""
    examples: list[Example] = []
    for asset in assets:
        points = real.get(asset, {}).get(STEPS[slot])
        if points is None:
            nothing = np.full((2, HISTORY_POINTS), np.nan, dtype=np.float32)
            examples.append(Example(asset, 100.0, nothing, WARMUP_START))
            continue
        for part in (1 / 3, 2 / 3, 1.0):
            last = round(part * (len(points.times) - 1))
            start = -(-(int(points.times[last]) + 1) // 60) * 60
            known, spot = slice(last + 1), float(points.prices[last])
            history = history_tensor(points.times[known], points.prices[known], start, spot)
            examples.append(Example(asset, spot, history, start))
    return tuple(examples)
