"""Every body that the encoder writes is JSON that reads back as the rounded prices, valid by the validator's rule."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from serving.subnets.base import Task
from serving.subnets.synth.digits import round_prices
from serving.subnets.synth.encoder import FIELD, encode
from serving.subnets.synth.protocol import SYNTH
from serving.subnets.synth.ticks import Ticks, to_ticks
from serving.subnets.synth.validity import CORRECT, validity, verdict
from tests.serving.subnets.synth.test_ticks import PRICES
from tests.serving.subnets.synth.vectors import request

(ROUTE,) = SYNTH.routes


def encoded(prices: Any) -> bytes:
    ticks = to_ticks(np.asarray(prices))
    assert ticks is not None
    return bytes(encode(ticks, b"[", b"]"))


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (1234567.89, b"1234567.9"),
        (123456.789, b"123456.79"),
        (97352.606, b"97352.606"),
        (1234.5, b"1234.5000"),
        (100.0, b"100.00000"),
        (42.0625, b"42.062500"),
        (1.5, b"1.5000000"),
        (0.62, b"0.6200000"),
        (0.0001, b"0.0001000"),
        (9.99999996, b"10.000000"),
    ],
)
def test_each_place_of_the_dot(price: float, text: bytes) -> None:
    assert encoded([[price]]) == b"[[" + text + b"]]"


@given(arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=PRICES, fill=PRICES))
@example(np.array([[99_999.9999, 100_000.0, 0.0001, 9_999_999.9]]))
def test_the_body_reads_back_as_the_rounded_prices(prices: Any) -> None:
    body = encoded(prices)
    assert json.loads(body) == round_prices(prices).tolist()
    assert len(body) == prices.shape[0] * (prices.shape[1] * FIELD + 2) + 1
    assert not re.search(rb"(?<![\d.])0\d", body)  # JSON allows no superfluous zero in front


@given(st.integers(0, 9_999), st.integers(0, 9_999), st.integers(1, 7))
def test_every_pair_of_halves_is_written_as_it_is(first: int, second: int, decimals: int) -> None:
    count = first * 10_000 + second
    ticks = Ticks(np.array([[count, count]], np.int32), decimals)
    digits = f"{count:08d}"
    text = f"{digits[:-decimals]}.{digits[-decimals:]}"
    assert bytes(encode(ticks, b"", b".")).decode() == f"[{text},{text}]."


@pytest.mark.parametrize("spot", [97_352.6, 100_000.0, 0.62])
def test_a_whole_day_is_correct_at_the_validator(spot: float) -> None:
    asked = request(time_increment=300, time_length=86_400, num_simulations=1000)
    steps = np.random.default_rng(5).normal(0, 2e-4, (1, 1000, 289)).cumsum(axis=2)
    paths = (spot * np.exp(steps)).astype(np.float32)
    task = Task(asked.slot, asked, b"")
    answer = ROUTE.answer(task, {"PATHS": paths})
    assert isinstance(answer, Ticks)
    assert ROUTE.check(task, answer) is None
    body = ROUTE.reply(task, answer, legacy=True)
    assert isinstance(body, memoryview)
    sent = json.loads(bytes(body))["simulation_output"]
    said, read = verdict(asked, "1", sent)
    assert said == CORRECT
    assert read is not None
    assert np.array_equal(read, round_prices(paths[0]))


ANY = PRICES | st.floats(width=32).map(float) | st.sampled_from([1e-5, 4e-8, 1e7, 1e16])


@given(arrays(np.float64, (1, 2, 61), elements=ANY, fill=PRICES))
@example(np.full((1, 2, 61), 9_999_999.96))
def test_what_the_road_lets_out_is_correct_and_near_and_what_it_stops_is_void(paths: Any) -> None:
    """Answer, check and reply together, in and outside the domain of ticks."""
    asked = request(num_simulations=2)
    task = Task(asked.slot, asked, b"")
    answer = ROUTE.answer(task, {"PATHS": paths})
    if ROUTE.check(task, answer) is not None:
        prices = np.asarray(answer)
        assert not (np.isfinite(prices).all() and (prices > 0).all() and prices.max() < 1e7)
        return
    sent = json.loads(bytes(ROUTE.reply(task, answer, legacy=False)))["simulation_output"]
    assert validity(asked, "1", sent) == CORRECT
    assert sent[2:] == round_prices(paths[0]).tolist()
