"""The prompt score: CRPS of an ensemble of price paths against the price that came, in basis points.

Gneiting and Raftery (2007), eq. 21: mean |y - x| less half the mean |y - y'|. The second part comes from sorting,
sum over i of (2i - n - 1) y_(i) / n^2, so that a day of 1,000 paths costs milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from serving.subnets.synth.digits import FloatArray
from serving.subnets.synth.rules import Prompt

INVALID = -1.0
"""What the validator stores for an answer that has no score."""
_BP = 1e4


class Score(NamedTuple):
    """The score of one prompt, whole and in parts; lower is better."""

    total: float
    """Sum of all terms, basis points; -1 when a simulated price is exactly 0; NaN when a term cannot be computed."""
    per_interval: dict[str, float]
    """Sum by interval set; a set with no point left is absent."""
    terms: dict[str, FloatArray]
    """Every CRPS term by interval set, in time order; terms without a real price are left out."""

    @property
    def stored(self) -> float:
        """The total as the validator stores it: -1 when it is not a number."""
        return INVALID if math.isnan(self.total) else self.total

    @property
    def n_terms(self) -> int:
        """How many terms stand behind the total."""
        return sum(values.size for values in self.terms.values())


def score(
    paths: npt.NDArray[Any], real: npt.NDArray[Any], increment: int, intervals: Sequence[tuple[str, int]]
) -> Score:
    """Score paths (n, points) against real prices (points,), NaN where none is known.

    `increment` and the intervals' lengths are in seconds. Raises ValueError when the shapes differ or an interval is
    shorter than the increment.
    """
    real = np.asarray(real, dtype=np.float64)
    if paths.ndim != 2 or real.shape != (paths.shape[1],):
        raise ValueError(f"paths {paths.shape} and real prices {real.shape} do not fit")
    if (paths == 0).any():
        return Score(INVALID, {}, {})
    by_time: FloatArray = np.ascontiguousarray(paths.T, dtype=np.float64)  # (points, n)
    terms: dict[str, FloatArray] = {}
    for name, seconds in intervals:
        values = _interval(by_time, real, name, int(seconds / increment))
        if values is not None:
            terms[name] = values
    per_interval = {name: float(values.sum()) for name, values in terms.items()}
    return Score(math.fsum(per_interval.values()), per_interval, terms)


def prompt_score(paths: npt.NDArray[Any], real: npt.NDArray[Any], prompt: Prompt) -> Score:
    """`score` on a prompt's own grid and intervals."""
    return score(paths, real, prompt.increment, prompt.intervals)


def stored_score(paths: npt.NDArray[Any], real: npt.NDArray[Any], prompt: Prompt) -> float:
    """The total as the validator stores it: -1 for NaN, an exact 0, and paths that cannot be scored at all."""
    try:
        return prompt_score(paths, real, prompt).stored
    except ValueError:
        return INVALID


def _interval(by_time: FloatArray, real: FloatArray, name: str, step: int) -> FloatArray | None:
    """Terms of one interval set, or None when it has no point left."""
    if step < 1:
        raise ValueError(f"interval {name} is shorter than the time increment")
    levels = name.endswith("_abs")
    if levels:  # a span longer than the path shrinks until two points remain
        step = max(1, min(step, len(real) - 1))
    ends = slice(None, None, step)
    simulated, observed = by_time[ends], real[ends]
    if name.endswith("_gaps"):
        simulated, observed = simulated[:2], observed[:2]
    if len(observed) < 2:
        return None
    if levels:
        at_ends: FloatArray = _observed_crps(simulated[1:], observed[1:]) / real[-1] * _BP
        return at_ends
    return _observed_crps(_changes(simulated), _changes(observed))


def _changes(prices: FloatArray) -> FloatArray:
    """Relative changes between successive points (first axis), in basis points."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        changes: FloatArray = (prices[1:] - prices[:-1]) / prices[:-1] * _BP
    return changes


def _observed_crps(simulated: FloatArray, observed: FloatArray) -> FloatArray:
    known = ~np.isnan(observed)
    if known.all():
        return ensemble_crps(simulated, observed)
    return ensemble_crps(simulated[known], observed[known])


def ensemble_crps(members: FloatArray, observed: FloatArray) -> FloatArray:
    """CRPS of each row of members (terms, n) against observed (terms,), in the members' unit.

    A NaN member is left out of its row; a row of NaN only, or with an infinite member, gives NaN.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        away = members - observed[:, np.newaxis]  # CRPS is unchanged by a shift, and small numbers round less
        if np.isnan(away).any():
            return _crps_with_gaps(away)
        n = away.shape[1]
        mean = np.abs(away).mean(axis=1)
        away.sort(axis=1)
        crps: FloatArray = mean - away @ (_ranks(n) / n**2)
    return crps


def _crps_with_gaps(away: FloatArray) -> FloatArray:
    present = ~np.isnan(away)
    n = present.sum(axis=1)
    away.sort(axis=1)  # NaN last
    rank = 2.0 * np.arange(1, away.shape[1] + 1) - n[:, np.newaxis] - 1
    kept = np.arange(away.shape[1]) < n[:, np.newaxis]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(kept, np.abs(away), 0.0).sum(axis=1) / n
        spread = np.where(kept, rank * away, 0.0).sum(axis=1) / n.astype(np.float64) ** 2
        crps: FloatArray = mean - spread
    return crps


def _ranks(n: int) -> FloatArray:
    return np.arange(1 - n, n + 1, 2, dtype=np.float64)
