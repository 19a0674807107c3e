"""The score's verdict on planted scores: what passes, what fails, and what cannot be told."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from flows.contest import MIN_DISJOINT, Contest, block_length, judge
from flows.replays import Replay
from flows.split import GRIDS
from serving.state import PriceBook
from serving.subnets.synth.rules import HIGH, LOW

BOOK = PriceBook(0.0, 0.0, {})
Floats = npt.NDArray[np.float64]


def contest(
    candidate: Floats, champion: Floats, *, spacing: int = 3600, assets: tuple[str, ...] = ("AAPLX",)
) -> Contest:
    each = len(champion) // len(assets)
    replays = [Replay(HIGH, asset, i * spacing, BOOK, np.empty(0)) for asset in assets for i in range(each)]
    return Contest(replays, candidate, champion, {"reference-gaussian": champion.copy()}, 121)


def noise(scale: float, count: int = 40) -> Floats:
    return np.random.default_rng(2).normal(0.0, scale, count)


BASE = np.random.default_rng(1).uniform(500.0, 900.0, 40)


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [(0.95 * BASE + noise(3), "pass"), (1.05 * BASE + noise(3), "fail"), (BASE + noise(80), "inconclusive")],
)
def test_the_whole_interval_must_lie_on_one_side(candidate: Floats, verdict: str) -> None:
    check, report = judge(HIGH, contest(candidate, BASE))
    low, high = report.ci95
    assert check.verdict == verdict
    assert low is not None
    assert high is not None
    assert {"pass": high < 0, "fail": low > 0, "inconclusive": low <= 0 <= high}[verdict]
    assert report.change_pct == pytest.approx(100 * (candidate.mean() / BASE.mean() - 1), abs=1e-6)


def test_the_report_says_what_stands_behind_it() -> None:
    _, report = judge(HIGH, contest(0.9 * BASE, BASE, spacing=600, assets=("AAPLX", "NVDAX")))
    assert (report.replays, report.disjoint, report.terms, report.terms_full) == (40, 8, 121, 121)
    assert report.candidate == pytest.approx(0.9 * BASE.mean(), abs=1e-6)
    assert [(s.name, s.replays, s.disjoint) for s in report.slices] == [("AAPLX", 20, 4), ("NVDAX", 20, 4)]
    (reference,) = report.baselines
    assert (reference.name, reference.change_pct, reference.ci95) == ("reference-gaussian", 0.0, (0.0, 0.0))


@pytest.mark.parametrize("count", [0, 1, MIN_DISJOINT - 1])
def test_little_data_is_never_a_pass(count: int) -> None:
    check, report = judge(HIGH, contest(0.5 * BASE[:count], BASE[:count]))
    assert check.verdict == "inconclusive"
    assert report.replays == count


def test_overlapping_starts_are_not_counted_as_many_windows() -> None:
    check, report = judge(HIGH, contest(0.5 * BASE, BASE, spacing=60))
    assert check.verdict == "inconclusive"
    assert report.disjoint == 1


def test_a_void_answer_of_the_candidate_fails_it_and_one_of_the_champion_proves_nothing() -> None:
    broken = 0.5 * BASE
    broken[3] = np.nan
    check, report = judge(HIGH, contest(broken, BASE))
    assert (check.verdict, check.reason) == ("fail", "1 answers have no score")
    assert report.change_pct is None
    check, _ = judge(HIGH, contest(0.5 * BASE, broken))
    assert check.verdict == "inconclusive"


def test_worse_on_one_asset_fails_though_better_on_average() -> None:
    base = np.concatenate([np.full(20, 900.0), np.full(20, 500.0)])
    candidate = base * np.concatenate([np.full(20, 0.80), np.full(20, 1.10)])
    check, report = judge(HIGH, contest(candidate, base, assets=("AAPLX", "NVDAX")))
    assert report.ci95[1] is not None
    assert report.ci95[1] < 0
    assert check.verdict == "fail"
    assert check.reason.startswith("worse on NVDAX (+10.00 %")
    assert [part.worse for part in report.slices] == [False, True]


def test_simulated_prices_can_fail_a_candidate_and_never_let_it_pass() -> None:
    better, worse = contest(0.9 * BASE, BASE), contest(1.1 * BASE, BASE)
    check, report = judge(HIGH, better, worse)
    assert check.verdict == "fail"
    assert report.slices[-1].simulated
    assert "worse on simulated prices" in check.reason
    same = contest(BASE + noise(80), BASE)
    check, report = judge(HIGH, same, better)
    assert check.verdict == "inconclusive"
    assert report.replays == 40


def test_blocks_are_as_long_as_the_overlap_and_longer_for_many_days() -> None:
    assert block_length(GRIDS[HIGH], 66) == 6
    assert block_length(GRIDS[LOW], 155) == 5
    assert block_length(GRIDS[LOW], 1) == 1
