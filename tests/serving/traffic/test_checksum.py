from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.traffic.checksum import LARGE, checksum

BODY = np.random.default_rng(7).bytes(LARGE + 12_345)


@given(st.binary(max_size=1000))
def test_a_small_body_has_its_crc(body: bytes) -> None:
    assert checksum(body) == checksum(memoryview(body)) == zlib.crc32(body)


def test_a_large_body_by_its_definition() -> None:
    whole = len(BODY) // 65536 * 65536
    columns = [0] * 8192
    for at in range(0, whole, 8):
        place = at // 8 % 8192
        columns[place] = (columns[place] + int.from_bytes(BODY[at : at + 8], "little")) % 2**64
    sums = b"".join(column.to_bytes(8, "little") for column in columns)
    assert checksum(BODY) == checksum(memoryview(BODY)) == zlib.crc32(sums + BODY[whole:])


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_every_byte_of_a_large_body_counts(at: int, change: int) -> None:
    other = bytearray(BODY)
    other[at] ^= change
    assert checksum(bytes(other)) != checksum(BODY)


@pytest.mark.parametrize("size", [0, LARGE - 1, LARGE, LARGE + 1, 4 * LARGE])
def test_any_size(size: int) -> None:
    assert 0 <= checksum(bytes(size)) < 2**32
