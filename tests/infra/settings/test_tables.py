"""What the tables refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from infra.settings import Settings


@pytest.mark.parametrize(
    "said",
    [
        {"netuid": -1}, {"traffic": {"keep_days": math.inf}}, {"traffic": {"disk_cap": -1}},
        {"prices": {"record_every": 0}}, {"prices": {"pyth_history_days": -1}},
        {"gateway": {"stake_threshold": math.nan}}, {"gateway": {"workers": 0}}, {"clock": {"max_skew": 0}},
        {"ports": {"gateway": 70_000}},
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**said)
