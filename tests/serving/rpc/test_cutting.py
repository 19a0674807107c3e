"""Units come out of a stream of bytes whole and in order, however it was split."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.rpc.cutting import Cutter


def unit(body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + body


def length(head: memoryview) -> int:
    found = int.from_bytes(head, "big")
    if found > 1000:
        raise ValueError("too long")
    return found


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(0, 10_000)), st.binary(max_size=20))
def test_any_split_gives_the_same_units(bodies: list[bytes], cuts: list[int], rest: bytes) -> None:
    tail = unit(bytes(999))[: 2 + len(rest)] if rest else b""
    cutter = Cutter(2, length)
    data = b"".join(map(unit, bodies)) + tail
    found = [bytes(one) for piece in split(data, cuts) for one in cutter.feed(piece)]
    assert found == [unit(body) for body in bodies]
    assert cutter.held == len(tail)


@given(st.lists(st.binary(max_size=30), max_size=5), st.lists(st.integers(0, 200)))
def test_a_length_that_is_refused_comes_after_the_units_before(bodies: list[bytes], cuts: list[int]) -> None:
    cutter = Cutter(2, length)
    found: list[bytes] = []

    def feed() -> None:
        for piece in split(b"".join(map(unit, bodies)) + b"\xff\xff", cuts):
            found.extend(bytes(one) for one in cutter.feed(piece))

    with pytest.raises(ValueError, match="too long"):
        feed()
    assert found == [unit(body) for body in bodies]
