"""Made-up prices for assets that have no real ones: a Gaussian random walk, the same for everybody at any time.

The logarithm of an asset's price is a Brownian motion with the subnet's reference volatility. Its value at each UTC
midnight is a sum of daily draws from a fixed epoch; a day's minutes are a Brownian bridge between two midnights. So
a price is a function of (asset, time) alone, and any window is computed without what came before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra import bars
from infra.market_hours import DAY, Hours
from infra.price_sources import ASSETS, SourceError

SIGMA = {
    "BTC": 0.00541, "ETH": 0.00766, "XAU": 0.00312, "SOL": 0.00858, "SPYX": 0.00157, "NVDAX": 0.00338,
    "TSLAX": 0.00337, "AAPLX": 0.00259, "GOOGLX": 0.00322, "XRP": 0.00956, "HYPE": 0.01131, "WTIOIL": 0.00639,
}  # fmt: skip
"""Standard deviation of an hour's log return: the subnet's reference miner's."""
LEVEL = {
    "BTC": 100_000.0, "ETH": 3_500.0, "XAU": 3_500.0, "SOL": 180.0, "SPYX": 640.0, "NVDAX": 180.0,
    "TSLAX": 350.0, "AAPLX": 300.0, "GOOGLX": 250.0, "XRP": 2.5, "HYPE": 40.0, "WTIOIL": 70.0,
}  # fmt: skip
"""USD at the epoch: plausible, and no more than that."""

EPOCH = 1_785_369_600 // DAY
"""2026-07-30, as days since 1970."""
WINDOW = (EPOCH * DAY, (EPOCH + 8) * DAY)
"""What ingest stores (unix s): the packaged minute bars' days, and a day on either side."""
_MINUTES = 1440


class Simulated:
    """The random walk as a source; its history is `WINDOW`, and `walk` tells any other."""

    name = "simulated"
    simulated = True
    proxy = False
    hours: Hours | None = "round-the-clock"

    def __init__(self, assets: Sequence[str] = ASSETS) -> None:
        self.assets = tuple(assets)

    def offers(self) -> Sequence[tuple[str, int]]:
        """Every asset, by the minute and by the hour."""
        return [(asset, step) for asset in self.assets for step in (60, 3600)]

    def notes(self) -> Sequence[str]:
        """Nothing: it cannot fail."""
        return []

    def close(self) -> None:
        """Nothing is open."""

    def history(self, asset: str, step: int, since: int | None = None) -> pd.DataFrame:
        """The bars of `WINDOW`."""
        return walk_bars(asset, step, max(WINDOW[0], since or 0), WINDOW[1])


def walk(asset: str, times: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Prices at `times` (unix s, rounded down to the minute)."""
    minute = np.asarray(times, dtype=np.int64) // 60
    day, within = np.divmod(minute, _MINUTES)
    logs = np.empty(len(minute))
    for one in np.unique(day):
        here = day == one
        logs[here] = _day(asset, int(one))[within[here]]
    return np.exp(logs)


def walk_bars(asset: str, step: int, first: int, end: int) -> pd.DataFrame:
    """Bars of `step` seconds that open from `first` up to, not including, `end` (unix s).

    A minute's bar closes at the walk's price of its opening minute, and an hour's opens there, because those are the
    prices that `infra.points` reads.
    """
    opens = np.arange(-(-first // step) * step, end, step, dtype=np.int64)
    if step <= 60:
        shut, start = walk(asset, opens), walk(asset, opens - 60)
        made = bars.make(opens, shut)
        made["open"], made["high"], made["low"] = start, np.maximum(start, shut), np.minimum(start, shut)
        return made
    inside = walk(asset, (opens[:, None] + np.arange(0, step + 1, 60)).ravel()).reshape(len(opens), -1)
    made = bars.make(opens, inside[:, -1])
    made["open"], made["high"], made["low"] = inside[:, 0], inside.max(axis=1), inside.min(axis=1)
    return made


def _seed(asset: str, what: str) -> int:
    return int.from_bytes(hashlib.sha256(f"headframe/simulated/{asset}/{what}".encode()).digest()[:16], "big")


@lru_cache(maxsize=512)
def _draws(asset: str, forward: bool, count: int) -> npt.NDArray[np.float64]:
    rng = np.random.Generator(np.random.PCG64(_seed(asset, "after" if forward else "before")))
    return rng.standard_normal(count)


def _moves(asset: str, count: int, *, forward: bool) -> npt.NDArray[np.float64]:
    """The first `count` daily draws after or before the epoch; a longer look gives the same numbers again."""
    return _draws(asset, forward, max(256, 1 << (count - 1).bit_length()) if count else 0)[:count]


def _midnight(asset: str, day: int) -> float:
    """Log price at the start of a UTC day."""
    try:
        daily = SIGMA[asset] * np.sqrt(24.0)
    except KeyError:
        raise SourceError(f"no simulated price for {asset!r}: the assets are {', '.join(SIGMA)}") from None
    past = _moves(asset, abs(day - EPOCH), forward=day >= EPOCH)
    return float(np.log(LEVEL[asset]) + daily * past.sum())


@lru_cache(maxsize=2048)
def _day(asset: str, day: int) -> npt.NDArray[np.float64]:
    """Log prices at the 1440 minutes of a UTC day."""
    start, end = _midnight(asset, day), _midnight(asset, day + 1)
    rng = np.random.Generator(np.random.PCG64(_seed(asset, str(day))))
    free = np.cumsum(rng.standard_normal(_MINUTES)) * SIGMA[asset] / np.sqrt(60.0)
    part = np.arange(1, _MINUTES + 1) / _MINUTES
    bridge = start + free - part * free[-1] + part * (end - start)
    made = np.concatenate(([start], bridge[:-1]))
    made.flags.writeable = False
    return made
