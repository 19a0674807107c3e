"""What zeroes a round: golden pairs at two decimals, and why answers on the coarse grid cannot differ there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.subnets.itsai.validity import agree, coarse, fault

DATA = Path(__file__).resolve().parents[3] / "data"
PAIRS = json.loads((DATA / "itsai_two_decimals.json").read_text())["cases"]


def number(value: Any) -> float:
    return float(value["$float"]) if isinstance(value, dict) else float(value)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair['main']}-{pair['check']}")
def test_golden_pairs(pair: dict[str, Any]) -> None:
    main, check = np.array([number(pair["main"])]), np.array([number(pair["check"])])
    assert int(fault(1, main) is None and agree(main, check)[0]) == pair["penalty"]
    if fault(1, main) is None:
        assert coarse(main)[0] == number(pair["main_rounded"])


def test_all_pairs_are_there() -> None:
    assert len(PAIRS) == 92


PROBABILITY = st.floats(0, 1)


@given(st.lists(st.tuples(PROBABILITY, st.floats(-1e-9, 1e-9)), min_size=1, max_size=20))
def test_answers_on_the_grid_agree_exactly_where_they_are_equal(noisy: list[tuple[float, float]]) -> None:
    main = coarse(np.array([value for value, _ in noisy]))
    check = coarse(np.array([min(1.0, max(0.0, value + noise)) for value, noise in noisy]))
    assert agree(main, check).tolist() == (main == check).tolist()
    assert coarse(main).tolist() == main.tolist()
    assert fault(len(noisy), main) is None
    assert all(len(str(value)) <= 4 for value in main.tolist())


def test_no_words_want_no_probabilities() -> None:
    assert fault(0, np.empty(0)) is None
    assert fault(0, np.array([0.5])) is not None
    assert fault(2, np.array([[0.5, 0.5]])) is not None
