"""The reward across miners: prompt scores, the leaderboard's weighted average with back-fill, and the softmax."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.subnets.synth.digits import FloatArray
from serving.subnets.synth.rules import ASSETS, Prompt
from serving.subnets.synth.scoring import INVALID
from serving.types import Asset

IntArray = npt.NDArray[np.int64]


class PromptScores(NamedTuple):
    """What each miner gets for one prompt, in basis points above the best."""

    scores: FloatArray | None
    """None when every miner was invalid: the prompt does not count."""
    percentile90: float
    lowest: float


def prompt_scores(sums: npt.ArrayLike) -> PromptScores:
    """Cap all miners' CRPS sums at the 90th percentile of the valid ones, give that to the invalid (-1), and take
    off the least."""
    given = np.asarray(sums, dtype=np.float64)
    valid = given[given != INVALID]
    if valid.size == 0:
        return PromptScores(None, 0.0, 0.0)
    p90, lowest = float(np.percentile(valid, 90)), float(valid.min())
    capped = np.minimum(np.where(given == INVALID, p90, given), p90)
    return PromptScores(capped - lowest, p90, lowest)


class Rows(NamedTuple):
    """Scored answers as columns of equal length, one row a miner and prompt."""

    times: IntArray
    """When the prompt was scored, unix s."""
    miners: IntArray
    assets: npt.NDArray[np.str_]
    scores: FloatArray
    """Prompt scores; NaN counts as none."""
    percentile90: FloatArray
    lowest: FloatArray

    @classmethod
    def of(cls, rows: Iterable[Sequence[object]]) -> Rows:
        """From (time, miner, asset, score, percentile90, lowest) tuples; None is NaN."""
        columns = list(zip(*rows, strict=True)) or [()] * 6
        return cls(
            np.array(columns[0], dtype=np.int64),
            np.array(columns[1], dtype=np.int64),
            np.array(columns[2], dtype=np.str_),
            np.array(columns[3], dtype=np.float64),
            np.array(columns[4], dtype=np.float64),
            np.array(columns[5], dtype=np.float64),
        )

    def take(self, keep: npt.NDArray[np.bool_] | IntArray) -> Rows:
        """The chosen rows."""
        return Rows(
            self.times[keep], self.miners[keep], self.assets[keep],
            self.scores[keep], self.percentile90[keep], self.lowest[keep],
        )  # fmt: skip


def in_window(rows: Rows, now: float, prompt: Prompt) -> Rows:
    """The rows that the validator's query gives: from `window_days` before `now` (unix s)."""
    return rows.take(rows.times >= now - prompt.window_days * 86_400)


def backfill(rows: Rows) -> Rows:
    """The rows with a worst row (P90 less the best) for each time before a miner's own first, by time then miner.

    Each time has one such row, whatever the number of assets scored at it: that of its first row.
    """
    if rows.times.size == 0:
        return rows
    times, first_row = np.unique(rows.times, return_index=True)
    miners, own = np.unique(rows.miners, return_inverse=True)
    joined = np.full(miners.size, np.iinfo(np.int64).max)
    np.minimum.at(joined, own, rows.times)
    moment, miner = np.nonzero(times[:, np.newaxis] < joined)
    at = first_row[moment]
    worst = rows.percentile90 - rows.lowest
    filled = Rows(
        np.concatenate([rows.times, times[moment]]),
        np.concatenate([rows.miners, miners[miner]]),
        np.concatenate([rows.assets, rows.assets[at]]),
        np.concatenate([rows.scores, worst[at]]),
        np.concatenate([rows.percentile90, rows.percentile90[at]]),
        np.concatenate([rows.lowest, rows.lowest[at]]),
    )
    return filled.take(np.lexsort((filled.miners, filled.times)))


def leaderboard(rows: Rows, now: float) -> dict[int, float]:
    """Each miner's average prompt score up to `now` (unix s), weighted by asset; infinity without a valid row."""
    filled = backfill(rows)
    miners, own = np.unique(filled.miners, return_inverse=True)
    counts = (filled.times <= now) & ~np.isnan(filled.scores)
    assets, which = np.unique(filled.assets, return_inverse=True)
    weights = np.array([ASSETS[Asset(name)].weight if name in ASSETS else 1.0 for name in assets.tolist()])
    weight = np.where(counts, weights[which], 0.0) if assets.size else np.zeros(0)
    total = np.bincount(own, weights=weight * np.where(counts, filled.scores, 0.0), minlength=miners.size)
    mass = np.bincount(own, weights=weight, minlength=miners.size)
    values = np.divide(total, mass, out=np.full(miners.size, np.inf), where=mass > 0)
    return dict(zip(miners.tolist(), values.tolist(), strict=True))


def softmax(scores: npt.ArrayLike, beta: float) -> FloatArray:
    """exp(beta score), normalised; an infinite score gets 0, and all infinite give NaN."""
    scaled = beta * np.asarray(scores, dtype=np.float64)
    if scaled.size == 0:
        return scaled
    with np.errstate(invalid="ignore"):
        grown = np.exp(scaled - scaled.max())
        shares: FloatArray = grown / grown.sum()
    return shares


class Reward(NamedTuple):
    """A miner's part of one prompt's reward."""

    miner: int
    uid: int
    smoothed: float
    """Leaderboard value, basis points."""
    weight: float
    """Already times the prompt's coefficient."""


def rewards(rows: Rows, now: float, prompt: Prompt, uids: Mapping[int, int] | None) -> list[Reward] | None:
    """What the prompt pays each miner at `now` (unix s), by miner; `rows` already inside the window.

    `uids` maps a miner to its uid; one without is left out before the softmax. None without rows or uids.
    """
    if rows.times.size == 0 or uids is None:
        return None
    values = {miner: value for miner, value in leaderboard(rows, now).items() if miner in uids}
    shares = softmax(list(values.values()), prompt.beta) * prompt.coefficient
    found = zip(values.items(), shares.tolist(), strict=True)
    return [Reward(miner, uids[miner], value, share) for (miner, value), share in found if share > 0]


def combine(parts: Iterable[Sequence[Reward] | None]) -> dict[int, float]:
    """Weight by miner, all prompts added; the owner's equal share is not in it."""
    total: dict[int, float] = {}
    for part in parts:
        for reward in part or ():
            total[reward.miner] = total.get(reward.miner, 0.0) + reward.weight
    return total
