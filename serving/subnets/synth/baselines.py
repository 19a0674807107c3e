"""The named field a model is measured against: honest, simple forecasters, the reference miner first.

Each gives paths (n, points) float64 from the same price book that the model has, seeded, whatever it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from serving.errors import UserError
from serving.state import AssetPrices, PriceBook
from serving.subnets.synth.digits import FloatArray
from serving.subnets.synth.rules import ASSETS
from serving.types import Asset

Baseline = Callable[[Asset, PriceBook, int, int, int, int, int], FloatArray]
"""(asset, book, start unix s, increment s, length s, n paths, seed) to paths (n, length // increment + 1)."""

HOURLY_BARS = 140
MINUTE_BARS = 390
_NEW_YORK = ZoneInfo("America/New_York")
_OPENS, _CLOSES = time(9, 30), time(16, 0)


def reference(scale: float) -> Baseline:
    """The reference miner: a Gaussian walk with the subnet's constant hourly sigma, times `scale`."""

    def paths(  # noqa: PLR0917
        asset: Asset, book: PriceBook, start: int, increment: int, length: int, n: int, seed: int
    ) -> FloatArray:
        return _walk(_known(asset, book).spot, _reference_sigmas(asset, increment, length, scale), n, seed)

    return paths


def trailing_sigma(  # noqa: PLR0917
    asset: Asset, book: PriceBook, start: int, increment: int, length: int, n: int, seed: int
) -> FloatArray:
    """A Gaussian walk with the sigma of the asset's last 140 hourly (or 390 one-minute) bars.

    A proxy's bars end with the session, so their variance is spread over the session clock: nothing moves while New
    York is closed. Without enough bars, or without an open minute ahead, it is the reference miner.
    """
    known = _known(asset, book)
    step, wanted = (60, MINUTE_BARS) if increment < 300 else (3600, HOURLY_BARS)
    sigma = _bar_sigma(known, step, wanted)
    bars = bar_clock(start, increment, length, step, sessions=known.proxy) if sigma is not None else np.zeros(1)
    if sigma is None or not bars.any():
        return _walk(known.spot, _reference_sigmas(asset, increment, length, 1.0), n, seed)
    return _walk(known.spot, sigma * np.sqrt(bars), n, seed)


FIELD: Mapping[str, Baseline] = {
    "reference-gaussian": reference(1.0),
    "trailing-sigma": trailing_sigma,
    "reference-half": reference(0.5),
    "reference-double": reference(2.0),
    "flat": reference(0.0),
}


def bar_clock(start: int, increment: int, length: int, step: int, *, sessions: bool) -> FloatArray:
    """How many bars of `step` seconds pass in each increment of a prompt (steps,).

    With `sessions`, bars pass only from 09:30 to 16:00 New York on weekdays, and a session's last bar is the
    shorter one: 15:30 to 16:00 counts as a whole hourly bar, as it does in the bars themselves.
    """
    edges = start + increment * np.arange(length // increment + 1, dtype=np.float64)
    if not sessions:
        return np.diff(edges) / step
    instants: list[float] = []
    bars: list[float] = []
    for opens, closes in _sessions(start, start + length):
        whole, passed = math.ceil((closes - opens) / step), bars[-1] if bars else 0.0
        instants += [*(opens + bar * step for bar in range(whole)), closes]
        bars += [passed + bar for bar in range(whole + 1)]
    if not instants:
        return np.zeros(length // increment)
    elapsed = np.interp(edges, instants, bars)
    return np.diff(elapsed)


def _sessions(start: int, end: int) -> list[tuple[float, float]]:
    day = datetime.fromtimestamp(start, UTC).astimezone(_NEW_YORK).date()
    found = []
    while (opens := datetime.combine(day, _OPENS, _NEW_YORK).timestamp()) <= end:
        if day.weekday() < 5:
            found.append((opens, datetime.combine(day, _CLOSES, _NEW_YORK).timestamp()))
        day += timedelta(days=1)
    return found


def _known(asset: Asset, book: PriceBook) -> AssetPrices:
    known = book.assets.get(asset)
    if known is None:
        raise UserError(f"the price book as of {book.as_of:.0f} has no {asset}: ingest its prices first")
    return known


def _reference_sigmas(asset: Asset, increment: int, length: int, scale: float) -> FloatArray:
    return np.full(length // increment, ASSETS[asset].sigma * scale * math.sqrt(increment / 3600))


def _bar_sigma(known: AssetPrices, step: int, wanted: int) -> float | None:
    """Root mean square log change of the last `wanted` bars, or None with fewer.

    An hourly change runs from bar to bar, over the night too; a one-minute change only inside a session, since one
    night would outweigh 390 minutes.
    """
    history = known.history.get(str(step))
    if history is None or len(history.times) <= wanted:
        return None
    times, prices = np.asarray(history.times, dtype=np.int64), np.asarray(history.prices, dtype=np.float64)
    opens = np.concatenate([[True], np.diff(times) >= step])  # a session's closing price is no bar of its own
    times, changes = times[opens], np.diff(np.log(prices[opens]))
    if step < 3600:
        changes = changes[np.diff(times) == step]
    changes = changes[-wanted:]
    if changes.size < wanted or not np.isfinite(changes).all():
        return None
    return float(np.sqrt(np.mean(changes**2)))


def _walk(spot: float, sigmas: FloatArray, n: int, seed: int) -> FloatArray:
    """Compounded Gaussian changes: paths (n, len(sigmas) + 1) from `spot`."""
    draws = np.random.default_rng(seed).standard_normal((n, sigmas.size))
    paths = np.empty((n, sigmas.size + 1))
    paths[:, 0] = spot
    np.multiply(draws, sigmas, out=draws)
    draws += 1.0
    np.cumprod(draws, axis=1, out=paths[:, 1:])
    paths[:, 1:] *= spot
    return paths
