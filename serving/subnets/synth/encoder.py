"""Price paths as JSON bytes without a general encoder: table look-ups, a few passes of numpy, and no copy.

Every price takes ten bytes: eight digits, the dot, and a comma, trailing zeros included. Its count is split into two
halves of four digits. One table gives the text of first halves, another that of second halves with the comma, and the
dot is in whichever half it falls, so that the work is the same wherever it stands:

    count 97352606, 3 decimals:  9735|2606  ->  "9735"  + "2.606,"
    count 12345678, 7 decimals:  1234|5678  ->  "1.234" + "5678,"

A row is ``[``, its fields with ``]`` for the last comma, and a comma.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from serving.subnets.synth.ticks import MOST_DECIMALS, Ticks

FIELD = 10
"""Bytes of a price and its comma."""
_HALF = 10_000
_BLOCK = 16_384
"""Prices encoded at a time, so that what is in the making stays in the second cache."""
_LEFT = 16
"""Bits of a field that lie before its last eight bytes."""

Words = npt.NDArray[np.uint64]


def encode(ticks: Ticks, before: bytes, after: bytes) -> memoryview:
    """`before`, the rows of `ticks` (n, points), and `after` in place of the last comma, in one new buffer.

    Only for ticks without a fault; n, points and the length of `after` are 1 or more.
    """
    n, points = ticks.shape
    at, width = len(before), points * FIELD + 2
    body = np.empty(at + n * width - 1 + len(after), dtype=np.uint8)
    rows = np.ndarray((n, width), np.uint8, body.data, offset=at)
    lefts = np.ndarray((n, points), "<u2", body.data, offset=at + 1, strides=(width, FIELD))  # bytes 0, 1 of a field
    rights = np.ndarray((n, points), "<u8", body.data, offset=at + 3, strides=(width, FIELD))  # bytes 2 to 9
    step = max(1, _BLOCK // points)
    for some in (slice(start, start + step) for start in range(0, n, step)):
        first, second = _halves(ticks, some)
        lefts[some] = first.view("<u2")[:, ::4]
        first >>= _LEFT
        first |= second
        rights[some] = first
    rows[:, 0] = ord("[")
    rows[:, -2] = ord("]")
    rows[:, -1] = ord(",")
    body[:at] = np.frombuffer(before, np.uint8)
    body[-len(after) :] = np.frombuffer(after, np.uint8)
    return body.data


def _halves(ticks: Ticks, rows: slice) -> tuple[Words, Words]:
    """Both halves' texts (rows, points): bytes 0 to 4 of the fields, and what is left of their bytes 2 to 9."""
    firsts, seconds = _tables()
    counts = ticks.counts[rows]
    high = counts // _HALF
    low = counts - high * _HALF
    if isinstance(ticks.decimals, int):
        return firsts[ticks.decimals].take(high), seconds[ticks.decimals].take(low)
    table = ticks.decimals[rows] * np.int32(_HALF)
    return firsts.take(table + high), seconds.take(table + low)


@cache
def _tables() -> tuple[Words, Words]:
    """Texts of first and of second halves, by decimals and number: each (8, 10000) little-endian words."""
    digits = np.arange(_HALF)[:, np.newaxis] // [1000, 100, 10, 1] % 10 + ord("0")
    firsts = np.zeros((MOST_DECIMALS + 1, _HALF, 8), np.uint8)
    seconds = np.zeros_like(firsts)
    for decimals in range(1, MOST_DECIMALS + 1):
        dot = 8 - decimals
        if dot < 4:
            firsts[decimals, :, :5] = np.insert(digits, dot, ord("."), axis=1)
            seconds[decimals, :, 3:7] = digits
        else:
            firsts[decimals, :, :4] = digits
            seconds[decimals, :, 2:7] = np.insert(digits, dot - 4, ord("."), axis=1)
        seconds[decimals, :, 7] = ord(",")
    return firsts.view("<u8")[..., 0], seconds.view("<u8")[..., 0]
