"""The validator's verdict, word for word; and our own fast check says the same on what we can send."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from serving.subnets.base import Task
from serving.subnets.synth.protocol import SYNTH
from serving.subnets.synth.request import Request
from serving.subnets.synth.validity import CORRECT, fault, validity, verdict
from tests.serving.subnets.synth.vectors import load, request

CASES = load("synth_validity.json")["cases"]


def _expected(said: Any) -> str:
    return said["exception"] if isinstance(said, dict) else str(said)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_golden_verdict(case: dict[str, Any]) -> None:
    asked = request(**case["request"])
    assert validity(asked, case["process_time"], case["response"]) == _expected(case["verdict"])
    said, paths = verdict(asked, case["process_time"], case["response"])
    assert said == _expected(case["verdict"])
    assert (paths is not None) == case["valid"]


def test_all_cases_are_there() -> None:
    assert len(CASES) == 87
    assert sum(case["valid"] for case in CASES) == 33


def _as_array(case: dict[str, Any]) -> Any:
    """The paths as an array of floats, where the head is right and such an array can hold them; else None."""
    asked, response = request(**case["request"]), case["response"]
    if case["process_time"] is None or not isinstance(response, list) or len(response) < 3:
        return None
    head, paths = response[:2], response[2:]
    if [type(value) for value in head] != [int, int] or head != [asked.start, asked.input.time_increment]:
        return None
    if not all(isinstance(path, list) and len(path) == len(paths[0]) for path in paths):
        return None
    prices = [price for path in paths for price in path]
    return np.array(paths) if all(isinstance(price, float) for price in prices) else None


COMPARABLE = [case for case in CASES if _as_array(case) is not None]


def test_many_cases_can_be_compared() -> None:
    assert len(COMPARABLE) == 40
    assert {case["valid"] for case in COMPARABLE} == {True, False}


@pytest.mark.parametrize("case", COMPARABLE, ids=[case["name"] for case in COMPARABLE])
def test_our_check_agrees_on_every_answer_that_is_an_array(case: dict[str, Any]) -> None:
    paths = _as_array(case)
    sendable = bool(np.isfinite(paths).all() and (paths > 0).all())
    assert (fault(request(**case["request"]), paths) is None) == (case["valid"] and sendable)


def _sent(asked: Request, paths: Any) -> Any:
    (route,) = SYNTH.routes
    body = bytes(route.reply(Task(asked.slot, asked, b""), paths, legacy=False))
    return json.loads(body)["simulation_output"]


PRICES = st.one_of(
    st.floats(1e-8, 1e8),
    st.floats(0.1, 1e5).map(lambda price: round(price, 3)),
    st.sampled_from([1e16, 0.1 + 0.2, 1e7]),
)


@given(arrays(np.float64, (2, 61), elements=PRICES, fill=PRICES))
def test_what_we_pass_is_correct_at_the_validator_and_what_we_stop_is_not(paths: Any) -> None:
    asked = request(num_simulations=2)
    assert (fault(asked, paths) is None) == (validity(asked, "1", _sent(asked, paths)) == CORRECT)


def _paths(n: int = 3) -> Any:
    return np.full((n, 61), 100.25)


def test_a_good_answer_has_no_fault() -> None:
    assert fault(request(), _paths()) is None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda paths: paths[:2], "shape"),
        (lambda paths: paths[:, :60], "shape"),
        (lambda paths: paths[np.newaxis], "shape"),
        (lambda paths: paths.astype(np.float32), "float32"),
        (lambda paths: np.where(paths > 0, np.nan, paths), "not finite"),
        (lambda paths: np.where(paths > 0, np.inf, paths), "not finite"),
        (lambda paths: paths * 0.0, "not positive"),
        (lambda paths: -paths, "not positive"),
        (lambda paths: paths * 1e6, "too many digits 100250000.0"),
        (lambda paths: paths / 3, "too many digits 33.4166"),
    ],
)
def test_a_faulty_answer_is_stopped(spoil: Any, words: str) -> None:
    found = fault(request(), spoil(_paths()))
    assert found is not None
    assert words in found


def test_the_fast_verdict_falls_back_to_the_literal_one() -> None:
    asked = request(num_simulations=1, time_length=120)
    whole = [asked.start, 60, [12345678, 2, True]]
    said, paths = verdict(asked, "1", whole)
    assert said == CORRECT
    assert paths is not None
    assert paths.tolist() == [[12345678.0, 2.0, 1.0]]
    assert verdict(asked, "1", [asked.start, 60, ["1.0", 2.0, 3.0]])[0].startswith("Price format")
