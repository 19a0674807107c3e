"""What a soak's report calls wrong."""

from __future__ import annotations

from typing import Any

import pytest

from bench.soak import wrong
from bench.soaking.memory import CLIENT

FLAT = {"first_mb": 1.0, "last_mb": 1.0, "floors_mb": 0.0, "line_mb": 0.0, "flat": True}
GREW = FLAT | {"floors_mb": 9.5, "line_mb": 11.0, "flat": False}
BOOKS = {"requests": 6, "valid": 6, "records_lost": 0, "records_twice": 0, "misrouted": 0, "faults": {}}
GOOD: dict[str, Any] = {
    "books": BOOKS, "flips": {"done": 2, "problems": []}, "memory": {"gateway": FLAT, CLIENT: GREW}, "restarts": {},
}  # fmt: skip


def test_a_good_report_has_nothing_wrong() -> None:
    assert wrong(GOOD) == []


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"books": BOOKS | {"valid": 5, "faults": {"503": 1}}}, "1 of 6 requests failed: {'503': 1}"),
        ({"books": BOOKS | {"requests": 0, "valid": 0}}, "0 of 0 requests failed: {}"),
        ({"books": BOOKS | {"records_lost": 2}}, "records_lost: 2"),
        ({"books": BOOKS | {"records_lost": -1}}, "records_lost: -1"),
        ({"flips": {"done": 1, "problems": ["slow"]}}, "flip: slow"),
        ({"flips": {"done": 0, "problems": []}}, "no flip was made"),
        ({"restarts": {"s3": 1}}, "restarted: {'s3': 1}"),
        (
            {"memory": {"gateway": GREW}},
            "memory of gateway grew in the second half: its floors by 9.5 MB, a line through it by 11.0 MB",
        ),
    ],
)
def test_each_fault_is_named(part: dict[str, Any], said: str) -> None:
    assert wrong(GOOD | part) == [said]
