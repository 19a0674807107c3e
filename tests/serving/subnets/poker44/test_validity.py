"""Which answers a validator of Poker44 takes, on the golden ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving.subnets.poker44.validity import fault

DATA = Path(__file__).resolve().parents[3] / "data"
CASES = json.loads((DATA / "poker44_answers.json").read_text())["answers"]


def plain(value: Any) -> Any:
    """The value that a tag stands for; a reply that never came has no scores."""
    if isinstance(value, dict) and "$tuple" in value:
        return tuple(value["$tuple"])
    return None if value == {"$absent": True} else value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_answers(case: dict[str, Any]) -> None:
    assert (fault(len(case["labels"]), plain(case["risk_scores"])) is None) == case["accepted"]


def test_all_answers_are_there() -> None:
    assert len(CASES) == 17
    assert sum(case["accepted"] for case in CASES) == 5


@pytest.mark.parametrize("scores", [[float("inf")], [float("nan")], [-1e-9], [10**400], []])
def test_numbers_that_are_no_risk_are_refused(scores: list[Any]) -> None:
    assert fault(1, scores) is not None
