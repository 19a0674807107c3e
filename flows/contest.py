"""The score: candidate, champion and baselines on the same held-out requests, by the subnet's own formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from flows.bootstrap import Change, paired_change
from flows.progress import Progress
from flows.replays import PATHS, Asked, Replay, ask
from flows.split import Grid, disjoint, grid_of
from flows.trial import Trial, side_by_side
from flows.verdicts import Check
from serving.subnets.synth.baselines import FIELD
from serving.subnets.synth.scoring import Score, prompt_score
from serving.types import Asset

MIN_DISJOINT = 8
"""Windows that share no price, below which no interval is believed."""

SIMULATED = "simulated prices"
"""Name of the slice of all assets that have simulated prices only."""

Floats = npt.NDArray[np.float64]
Scored = Callable[[Replay, Asked], Score | None]
"""A score, or None for an answer that the validator would void."""


class Standing(msgspec.Struct, frozen=True):
    """One contestant against the live champion, in percent of the champion's mean score; lower is better."""

    name: str
    score: float | None
    change_pct: float | None
    ci95: tuple[float | None, float | None]


class Slice(msgspec.Struct, frozen=True):
    """The same on a named part of the replays: an asset, or all assets with simulated prices together."""

    name: str
    replays: int
    disjoint: int
    candidate: float | None
    champion: float | None
    change_pct: float | None
    ci95: tuple[float | None, float | None]
    worse: bool
    """The candidate is worse here at 95 %, shared out over all slices (Bonferroni)."""
    simulated: bool
    """Such a slice can fail a candidate, and never helps one to pass."""


class ScoreReport(msgspec.Struct, frozen=True):
    """The evidence behind the score's verdict."""

    candidate: float | None
    """Mean prompt score, basis points."""
    champion: float | None
    change_pct: float | None
    ci95: tuple[float | None, float | None]
    replays: int
    disjoint: int
    """How many of the replays share no price with each other, per asset, summed."""
    terms: int
    """CRPS terms behind each score (the median over replays)."""
    terms_full: int
    """Terms of a prompt when every price is known."""
    baselines: list[Standing]
    slices: list[Slice]
    paths: int
    block: int
    """Starts in a bootstrap block."""


@dataclass(frozen=True)
class Contest:
    """Scores by contestant, (replays,) each, and what they stand on."""

    replays: Sequence[Replay]
    candidate: Floats
    champion: Floats
    baselines: Mapping[str, Floats]
    terms: int


def hold(
    trial: Trial,
    candidate: str,
    champion: str,
    replays: Sequence[Replay],
    progress: Progress,
    *,
    field: Sequence[str] = tuple(FIELD),
    what: str = "paired replay",
) -> Contest:
    """Ask both releases every replayed request, and the baselines of `field`; void answers score NaN."""
    asked = [ask(r.slot, r.asset, r.start, r.book) for r in replays]

    def one(index: int) -> tuple[float, float, list[float], int]:
        replay, request = replays[index], asked[index]
        ours = _scored(trial, candidate, replay, request)
        theirs = _scored(trial, champion, replay, request)
        baselines = [_baseline(name, replay, request.seed) for name in field]
        return _total(ours), _total(theirs), [_total(score) for score in baselines], ours.n_terms if ours else 0

    rows = side_by_side(one, range(len(replays)), what, progress)
    by_baseline = {name: np.array([row[2][i] for row in rows]) for i, name in enumerate(field)}
    terms = int(np.median([row[3] for row in rows])) if rows else 0
    return Contest(replays, np.array([r[0] for r in rows]), np.array([r[1] for r in rows]), by_baseline, terms)


def judge(slot: str, contest: Contest, simulated: Contest | None = None, *, seed: int = 0) -> tuple[Check, ScoreReport]:
    """``pass`` when the whole interval of the change lies below zero, ``fail`` when above, else ``inconclusive``.

    ``fail`` too when the candidate is worse on a slice: on one of the assets, or on `simulated` prices of assets that
    have no real ones.
    """
    grid = grid_of(slot)
    report = _report(grid, contest, simulated, seed)
    low, high = report.ci95
    void = int(np.isnan(contest.candidate).sum()) + (int(np.isnan(simulated.candidate).sum()) if simulated else 0)
    lost = int(np.isnan(contest.champion).sum())
    if void:
        return _say("fail", f"{void} answers have no score", report)
    if lost:
        return _say("inconclusive", f"the champion has no score on {lost} of {report.replays} replays", report)
    if report.disjoint < MIN_DISJOINT or low is None or high is None or report.change_pct is None:
        reason = f"{report.replays} replays on {report.disjoint} disjoint windows; at least {MIN_DISJOINT} are needed"
        return _say("inconclusive", reason, report)
    told = (
        f"{report.change_pct:+.2f} % [{low:+.2f}, {high:+.2f}] against the champion on {report.replays} replays "
        f"({report.disjoint} disjoint windows, {report.terms} of {report.terms_full} terms)"
    )
    worse = [part for part in report.slices if part.worse]
    if low > 0 or worse:
        where = "" if low > 0 else f"worse on {', '.join(map(_tell, worse))}; "
        return _say("fail", where + told, report)
    if high < 0:
        return _say("pass", told, report)
    return _say("inconclusive", f"{told}: it cannot be told from zero", report)


def block_length(grid: Grid, starts: int) -> int:
    """Starts in a bootstrap block: the overlap, or n^(1/3) where that is longer, since calm and wild days cluster."""
    return max(grid.overlap, round(math.cbrt(starts)))


def _say(verdict: Any, reason: str, report: ScoreReport) -> tuple[Check, ScoreReport]:
    return Check("score", verdict, reason, {"change_pct": report.change_pct, "ci95": list(report.ci95)}), report


def _tell(found: Slice) -> str:
    low, high = found.ci95
    return f"{found.name} ({found.change_pct:+.2f} % [{low:+.2f}, {high:+.2f}] on {found.replays} replays)"


def _report(grid: Grid, contest: Contest, simulated: Contest | None, seed: int) -> ScoreReport:
    groups = [replay.asset for replay in contest.replays]
    block = block_length(grid, len(groups))

    def change(scores: Floats) -> Change:
        return paired_change(scores, contest.champion, block=block, groups=groups, seed=seed)

    def windows(asset: str) -> int:
        return disjoint((r.start for r in contest.replays if r.asset == asset), grid.length)

    assets = sorted(set(groups))
    parts = len(assets) + (simulated is not None)
    slices = [
        _slice(asset, contest, np.asarray(groups) == asset, windows(asset), block=block, parts=parts, seed=seed)
        for asset in assets
    ]
    if simulated is not None:  # drawn at starts that share no price
        count = len(simulated.replays)
        everything = np.ones(count, dtype=np.bool_)
        slices.append(_slice(SIMULATED, simulated, everything, count, block=1, parts=parts, seed=seed, simulated=True))
    overall = change(contest.candidate)
    baselines = []
    for name, scores in contest.baselines.items():
        found = change(scores)
        baselines.append(Standing(name, _mean(scores), plain(found.percent), _interval(found)))
    return ScoreReport(
        candidate=_mean(contest.candidate), champion=_mean(contest.champion), change_pct=plain(overall.percent),
        ci95=_interval(overall), replays=len(contest.replays), disjoint=sum(windows(asset) for asset in assets),
        terms=contest.terms, terms_full=grid.prompt.terms, baselines=baselines, slices=slices, paths=PATHS,
        block=block,
    )  # fmt: skip


def _slice(
    name: str, contest: Contest, where: npt.NDArray[np.bool_], windows: int, *, block: int, parts: int, seed: int,
    simulated: bool = False,
) -> Slice:  # fmt: skip
    candidate, champion = contest.candidate[where], contest.champion[where]
    found = paired_change(candidate, champion, block=block, seed=seed)
    strict = paired_change(candidate, champion, block=block, confidence=1 - 0.05 / parts, seed=seed)
    return Slice(
        name, candidate.size, windows, _mean(candidate), _mean(champion), plain(found.percent), _interval(found),
        worse=strict.low > 0, simulated=simulated,
    )  # fmt: skip


def _scored(trial: Trial, release_id: str, replay: Replay, asked: Asked) -> Score | None:
    answer = trial.answer(release_id, asked)
    if answer.fault is not None:
        return None
    return prompt_score(answer.paths, replay.truth, grid_of(replay.slot).prompt)


def _baseline(name: str, replay: Replay, seed: int) -> Score:
    grid = grid_of(replay.slot)
    paths = FIELD[name](Asset(replay.asset), replay.book, replay.start, grid.increment, grid.length, PATHS, seed)
    return prompt_score(paths, replay.truth, grid.prompt)


def _total(score: Score | None) -> float:
    """NaN for what the validator would store as invalid."""
    return float("nan") if score is None or score.total <= 0 or not math.isfinite(score.total) else score.total


def _mean(scores: Floats) -> float | None:
    return plain(float(scores.mean())) if scores.size else None


def _interval(change: Change) -> tuple[float | None, float | None]:
    return plain(change.low), plain(change.high)


def plain(value: float) -> float | None:
    """A number for a report: rounded to six decimals, None for what is not finite."""
    return round(value, 6) if math.isfinite(value) else None
