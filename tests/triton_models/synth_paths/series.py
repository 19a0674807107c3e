"""Training series for the tests: real AAPL points from the packaged bars, and a GARCH-t series of known parameters."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import numpy.typing as npt
import pandas as pd

from triton_models.synth_paths.train import Training

F64 = npt.NDArray[np.float64]
CLOSE = 57_600


def _bars(name: str) -> pd.DataFrame:
    bars = pd.read_csv(str(files("mintalib.samples") / name))
    local = pd.to_datetime(bars["datetime"], utc=True).dt.tz_convert("America/New_York")
    bars["time"] = [int(moment.timestamp()) for moment in local]
    bars["second"] = local.dt.hour * 3600 + local.dt.minute * 60
    bars["date"] = local.dt.date
    return bars.iloc[:-1]  # the last bar is cut off


def hourly() -> Training:
    """AAPL by the hour, two years: the open of each bar, and the last close of each session."""
    points: list[tuple[int, float]] = []
    for _, session in _bars("hourly-prices.csv").groupby("date"):
        points.extend(zip(session["time"], session["open"], strict=True))
        last = session.iloc[-1]
        points.append((int(last["time"] + min(3600, CLOSE - last["second"])), float(last["close"])))
    times, prices = zip(*points, strict=True)
    return Training(np.array(times, dtype=np.int64), np.array(prices), 3600, simulated=False, proxy=True)


def minutes() -> Training:
    """AAPL by the minute, four sessions and a bit: the close of the bar that opens then."""
    bars = _bars("minute-prices.csv")
    return Training(bars["time"].to_numpy(np.int64), bars["close"].to_numpy(float), 60, simulated=False, proxy=True)


def before(training: Training, end: int) -> Training:
    """What of a series ends before `end` (unix s)."""
    keep = training.times < end
    return training._replace(times=training.times[keep], prices=training.prices[keep])


def garch_returns(n: int, *, alpha: float, beta: float, nu: float, seed: int) -> F64:
    """GARCH(1,1) returns (n,) with standardised Student-t innovations and long-run variance 1."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_t(nu, n) * np.sqrt((nu - 2) / nu)
    returns, h = np.empty(n), 1.0
    for i in range(n):
        returns[i] = np.sqrt(h) * noise[i]
        h = (1 - alpha - beta) + alpha * returns[i] ** 2 + beta * h
    return returns


def round_the_clock(days: int, *, step: int = 3600, sigma: float = 0.006, seed: int = 3) -> Training:
    """A market that never closes and is twice as volatile (by sigma) from 12:00 to 18:00 UTC."""
    rng = np.random.default_rng(seed)
    times = 1_750_032_000 + step * np.arange(days * 86_400 // step, dtype=np.int64)
    busy = (times % 86_400 // 3600 >= 12) & (times % 86_400 // 3600 < 18)
    scale = sigma * np.sqrt(step / 3600) * np.where(busy, 2.0, 1.0)
    logs = np.concatenate([[0.0], np.cumsum(scale * rng.standard_normal(len(times)))[:-1]])
    return Training(times, 100 * np.exp(logs), step, simulated=False, proxy=False)
