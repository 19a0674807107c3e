"""Every row and fault of the lists has a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults import FAULTS, ROWS

NAMES = [
    name
    for path in Path(__file__).parent.glob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize("row", ROWS)
def test_each_hostile_row_has_a_test(row: int) -> None:
    assert [name for name in NAMES if name.startswith(f"test_row_{row}_")]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_a_test(fault: str) -> None:
    assert [name for name in NAMES if name.startswith(f"test_fault_{fault}_")]


def test_no_test_names_a_row_or_a_fault_that_is_not_listed() -> None:
    known = [f"test_row_{row}_" for row in ROWS] + [f"test_fault_{fault}_" for fault in FAULTS]
    numbered = [name for name in NAMES if name.startswith(("test_row_", "test_fault_"))]
    assert not [name for name in numbered if not name.startswith(tuple(known))]
