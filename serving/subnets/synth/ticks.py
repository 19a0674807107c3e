"""Prices as whole numbers of their last allowed digit, so that the eight-character rule holds by construction.

A price of k integer digits (k = 1 below 1) may have 8 - k decimals. As a whole number of those decimals it has at most
eight digits, and the text of the quotient, however short Python makes it, has no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.subnets.synth.digits import FloatArray

LOWEST, HIGHEST = 1e-4, 9_999_999.95
"""Below, Python writes an exponent; from the upper one on, a price rounds to eight integer digits."""
MOST_DECIMALS = 7
_TOP = 100_000_000
"""Nine digits: one too many."""
_LEAST = 1_000
"""The count of 1e-4 with 7 decimals; with fewer decimals the first of the eight digits is no zero."""
_BLOCK = 32_768
"""Prices worked on at a time: 256 KiB of float64 stay in the second cache."""
_EDGES = np.array([1e1, 1e2, 1e3, 1e4, 1e5, 1e6])
_SCALES: FloatArray = np.array([1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7])
"""10 ** decimals, exactly."""


@dataclass(frozen=True, slots=True, eq=False)
class Ticks:
    """Prices ``counts / 10 ** decimals``; as an array (``np.asarray``) they are the float64 that a reader parses."""

    counts: npt.NDArray[np.int32]
    """(n, points), C order."""
    decimals: int | npt.NDArray[np.uint8]
    """1 to 7; an array like `counts` where prices differ in their number of integer digits."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.counts.shape

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """The quotients, each the float64 nearest to its decimal; (n, points)."""
        if copy is False:
            raise ValueError("prices in ticks are no array of floats: a copy is needed")
        return np.asarray(self.counts / _SCALES[self.decimals], dtype=dtype)

    def fault(self) -> str | None:
        """Why a price would break the rule, be zero or negative, or start with a superfluous 0; None when none does."""
        decimals = np.asarray(self.decimals)
        if self.counts.size == 0 or decimals.shape not in {(), self.counts.shape}:
            return f"prices {self.counts.shape} and decimals {decimals.shape} do not fit"
        if decimals.min() < 1 or decimals.max() > MOST_DECIMALS:
            return "Price format is incorrect: not 1 to 7 decimals"
        low, high = self.counts.min(), self.counts.max()
        if low <= 0:
            return "a price is not positive"
        least = np.where(decimals == MOST_DECIMALS, _LEAST, _TOP // 10).astype(np.int32)
        if high >= _TOP or (low < least.max() and (self.counts < least).any()):
            return "Price format is incorrect: a price has not the eight digits that its decimals mean"
        return None


def to_ticks(prices: npt.NDArray[Any]) -> Ticks | None:
    """Prices rounded to ticks, halves to even, the same values as `digits.round_prices`; same shape.

    None when a price is outside [1e-4, 9999999.95), or not finite: then that function knows better.
    """
    if prices.size == 0:
        return None
    prices = np.ascontiguousarray(prices)
    low, high = float(prices.min()), float(prices.max())  # NaN passes neither comparison
    if not (low >= LOWEST and high < HIGHEST):
        return None
    whole, widest = np.searchsorted(_EDGES, [low, high], side="right").tolist()
    decimals = MOST_DECIMALS - whole
    if whole != widest or high * _SCALES[decimals] >= _TOP - 0.5:
        return _mixed(prices, decimals, _EDGES[whole:widest])
    counts = np.empty(prices.size, dtype=np.int32)
    flat, block = prices.reshape(-1), np.empty(min(_BLOCK, prices.size))
    for start in range(0, flat.size, _BLOCK):
        some = flat[start : start + _BLOCK]
        exact = np.multiply(some, _SCALES[decimals], out=block[: some.size], dtype=np.float64)
        counts[start : start + _BLOCK] = np.rint(exact, out=exact)
    return Ticks(counts.reshape(prices.shape), decimals)


def _mixed(prices: npt.NDArray[Any], most: int, edges: FloatArray) -> Ticks:
    """Prices around powers of ten: from the `most` decimals of the lowest, one less at each of the `edges`."""
    exact = prices.astype(np.float64)
    decimals = np.full(prices.shape, most, dtype=np.uint8)
    for edge in edges:
        decimals -= exact >= edge
    exact *= _SCALES[decimals]
    np.rint(exact, out=exact)
    longer = exact >= _TOP  # 9.99999996 is 10.0
    exact[longer] = _TOP // 10
    decimals -= longer
    return Ticks(exact.astype(np.int32), decimals)
