"""What the twin saw, as JSON-able structures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np


class PromptRow(msgspec.Struct):
    """One request and what became of it."""

    slot: str
    asset: str
    start: int
    """Unix s."""
    dialect: str
    caller: str
    """Hotkey, ss58."""
    ms: float = 0.0
    """From sending to the last byte."""
    verdict: str = ""
    """``CORRECT``, the validator's reason, or ``error``."""
    error: str | None = None
    crps: float | None = None
    """Sum of the terms, basis points; -1 as the validator stores an invalid one; None while not scored."""
    terms: int = 0
    """CRPS terms behind it, of `terms_full`."""
    terms_full: int = 0
    simulated: bool = False
    proxy: bool = False


class Report(msgspec.Struct, kw_only=True):
    """The twin's report."""

    requests: int
    by_dialect: dict[str, int]
    by_slot: dict[str, int]
    invalid: int
    """Answers that broke the validator's rules."""
    errors: int
    """Requests without a good reply."""
    reasons: dict[str, int]
    """How often each error or invalidity was seen."""
    p50_ms: float | None
    p99_ms: float | None
    """Over requests that were answered; None without any."""
    incentive: dict[str, float]
    """Softmax shares of the reward over the named field, owner left out; sums to 1, empty when nothing was scored."""
    scores: dict[str, dict[str, float]]
    """Mean CRPS sum (basis points) by slot and name, over the prompts scored, valid answers only."""
    scored: int
    """Prompts behind the incentive."""
    unscored: int
    """Prompts whose price is not known."""
    interrupted: bool = False
    prompts: list[PromptRow]

    @property
    def good(self) -> bool:
        """Nothing invalid, nothing in error, and something was asked."""
        return self.requests > 0 and self.invalid == 0 and self.errors == 0

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def report(
    rows: Sequence[PromptRow],
    *,
    incentive: dict[str, float],
    scores: dict[str, dict[str, float]],
    scored: int,
    unscored: int,
    interrupted: bool,
) -> Report:
    """Count the rows."""
    bad = [row for row in rows if row.verdict != "CORRECT"]
    answered = [row.ms for row in rows if row.error is None]
    p50, p99 = np.percentile(answered, (50, 99)).round(3).tolist() if answered else (None, None)
    return Report(
        requests=len(rows),
        by_dialect={"legacy": 0, "btauth": 0} | Counter(row.dialect for row in rows),
        by_slot=dict(Counter(row.slot for row in rows)),
        invalid=sum(row.error is None for row in bad),
        errors=sum(row.error is not None for row in bad),
        reasons=dict(Counter(row.error or row.verdict for row in bad)),
        p50_ms=p50,
        p99_ms=p99,
        incentive=incentive,
        scores=scores,
        scored=scored,
        unscored=unscored,
        interrupted=interrupted,
        prompts=list(rows),
    )
