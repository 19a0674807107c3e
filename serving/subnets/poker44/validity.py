"""When a validator of Poker44 takes an answer, whatever it is worth then: else it earns nothing."""

from __future__ import annotations

import math


def fault(items: int, risk_scores: object) -> str | None:
    """Why a validator would drop ``risk_scores`` (a Python value read from JSON), or None.

    One score for each of the `items`, finite and between 0 and 1. Numeric text and booleans are numbers to it.
    """
    if not isinstance(risk_scores, list):
        return "risk_scores is not a list"
    if not risk_scores or len(risk_scores) != items:
        return f"there are {len(risk_scores)} risk_scores for {items} items"
    try:
        scores = [float(score) for score in risk_scores]
    except (TypeError, ValueError, OverflowError):
        return "a risk score is not a number"
    if not all(math.isfinite(score) for score in scores):
        return "a risk score is not finite"
    if min(scores) < 0 or max(scores) > 1:
        return "a risk score is not between 0 and 1"
    return None
