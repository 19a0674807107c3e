"""Paired comparison of two scores over replay starts, by a moving-block bootstrap.

Windows that overlap share prices, so single starts are not independent: whole blocks, as long as the overlap, are
drawn instead (Kuensch 1989; circular as in Politis and Romano 1992, so that every start weighs the same).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
DRAWS = 5_000


@dataclass(frozen=True)
class Change:
    """A change of the mean in percent of the base's mean; lower scores are better, so below zero is a gain."""

    percent: float
    low: float
    """Lower end of the interval; NaN when there is none."""
    high: float


def change_percent(candidate: Floats, base: Floats) -> float:
    """Change of the mean score from base to candidate, in percent of the base's mean."""
    return float(100.0 * (candidate.mean() - base.mean()) / base.mean())


def paired_change(
    candidate: Floats,
    base: Floats,
    *,
    block: int,
    groups: Sequence[str] | None = None,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Change:
    """Change of the mean with its percentile interval at the given `confidence`.

    `candidate` and `base` are (starts,), paired and in time order within each group (an asset); `block` is in starts.
    Blocks never straddle two groups. With no start, or scores that are not finite or sum to nothing, every number is
    NaN; with fewer than two blocks the interval is.
    """
    if candidate.shape != base.shape or candidate.ndim != 1:
        raise ValueError(f"paired scores must be of one shape, not {candidate.shape} and {base.shape}")
    nothing = Change(float("nan"), float("nan"), float("nan"))
    if candidate.size == 0 or not np.isfinite(candidate).all() or not np.isfinite(base).all() or base.mean() <= 0:
        return nothing
    percent = change_percent(candidate, base)
    names = np.asarray(groups if groups is not None else [""] * candidate.size)
    positions = [np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())]
    if sum(-(-where.size // block) for where in positions) < 2:
        return Change(percent, float("nan"), float("nan"))
    random = np.random.default_rng(seed)
    drawn = np.concatenate([_blocks(where, block, draws, random) for where in positions], axis=1)  # (draws, starts)
    top, bottom = candidate[drawn].mean(axis=1), base[drawn].mean(axis=1)
    low, high = np.quantile(100.0 * (top - bottom) / bottom, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Change(percent, float(low), float(high))


def _blocks(where: npt.NDArray[np.intp], block: int, draws: int, random: np.random.Generator) -> npt.NDArray[np.intp]:
    """Positions of `draws` resamples of one group, each as long as the group: (draws, where.size)."""
    size = where.size
    count = -(-size // block)
    first = random.integers(0, size, (draws, count, 1))
    index = (first + np.arange(block)) % size
    positions: npt.NDArray[np.intp] = where[index.reshape(draws, count * block)[:, :size]]
    return positions
