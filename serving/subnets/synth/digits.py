"""The eight-character rule for prices: how to round by it, and whether an array keeps it.

A validator counts the characters of Python's text of a price without its dot: at most eight. The leading zero of
``0.5``, an exponent, and the ``0`` of ``12345678.0`` all count, so a price has 8 decimals less its integer digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MAX_CHARACTERS = 8
_EDGES: FloatArray = np.array([1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7])
_SCALES: FloatArray = np.array([1e7, 1e6, 1e5, 1e4, 1e3, 1e2, 1e1, 1e0])
"""10 ** decimals, by the number of integer digits (1 to 8)."""
_POSITIONAL = 1e-4
"""Below it Python writes an exponent, and four significant digits fit: ``1.234e-05``."""
_LONGEST = 1e7
"""From here on (to 1e16) every float has nine characters or more."""


def round_prices(prices: npt.NDArray[Any]) -> FloatArray:
    """Prices rounded so that each keeps the rule if it can; float64, C order, same shape.

    The quotient of two exact numbers is the float nearest to the decimal meant, so its shortest text is that decimal.
    NaN, infinities and prices of eight integer digits and more come out as they are or as whole numbers, and
    `too_long` or the caller's finite check finds them.
    """
    exact = np.ascontiguousarray(prices, dtype=np.float64)
    if exact.size == 0:
        return exact
    scale = _scale(exact)
    with np.errstate(over="ignore"):
        rounded: FloatArray = np.rint(exact * scale) / scale
    tiny = (exact > 0) & (exact < _POSITIONAL)
    if tiny.any():
        rounded[tiny] = [_round_tiny(value) for value in exact[tiny].tolist()]
    return rounded


def too_long(prices: FloatArray) -> npt.NDArray[np.bool_]:
    """Which prices break the rule; the same answer as counting characters, element by element."""
    scale = _scale(prices)
    with np.errstate(invalid="ignore", over="ignore"):
        broken: npt.NDArray[np.bool_] = np.rint(prices * scale) / scale != prices
        odd = ~((prices >= _POSITIONAL) & (prices < _LONGEST))
    if odd.any():
        broken[odd] = [not fits(value) for value in prices[odd].tolist()]
    return broken


def fits(price: float) -> bool:
    """The validator's count, literally."""
    return len(str(price).replace(".", "")) <= MAX_CHARACTERS


def _scale(prices: FloatArray) -> FloatArray | float:
    if prices.size == 0:
        return 1.0
    ends = np.array([prices.min(), prices.max()])
    low, high = np.searchsorted(_EDGES, ends, side="right").tolist()
    if low == high and not np.isnan(ends[0]):  # the common case: all prices have as many integer digits
        return float(_SCALES[low])
    scales: FloatArray = _SCALES[np.searchsorted(_EDGES, prices, side="right")]
    return scales


def _round_tiny(price: float) -> float:
    return float(f"{price:.3e}") if price >= 1e-99 else float(f"{price:.2e}")
