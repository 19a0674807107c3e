"""Answers wait for their prices, are scored beside the field, and are paid by the subnet's formula."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.state import AssetPrices, Points, PriceBook
from serving.subnets.synth.baselines import FIELD
from serving.subnets.synth.rules import HIGH, LOW, PROMPTS
from serving.twin.report import PromptRow
from serving.twin.score import Scoreboard
from serving.types import Asset

T = 1_785_763_800
LENGTH = PROMPTS[HIGH].length
BOOK = PriceBook(
    as_of=float(T), written_at=0.0, assets={Asset("BTC"): AssetPrices(100.0, T, "packaged", True, False, {})}
)


class _Market:
    """Truth that appears with time."""

    def __init__(self) -> None:
        self.until = float("inf")
        self.looks = 0

    def truth(self, asset: str, start: int, increment: int, length: int) -> Any:
        self.looks += 1
        at = np.arange(start, start + length + 1, increment)
        steps = np.random.default_rng(start).normal(0, 7e-4, len(at)).cumsum()
        steps -= steps[0]
        return np.where(at <= self.until, 100 * np.exp(steps), np.nan)


@pytest.fixture
def market() -> _Market:
    return _Market()


@pytest.fixture
def board(market: _Market) -> Iterator[Scoreboard]:
    made = Scoreboard(market.truth)
    yield made
    made.close()


def _row(start: int = T, asset: str = "BTC", slot: str = HIGH) -> PromptRow:
    return PromptRow(slot=slot, asset=asset, start=start, dialect="legacy", caller="5")


def _paths(seed: int = 1, sigma: float = 7e-4) -> Any:
    steps = np.random.default_rng(seed).normal(0, sigma, (200, 61)).cumsum(axis=1)
    steps[:, 0] = 0
    return 100 * np.exp(steps)


def test_a_valid_answer_is_scored_at_once_when_the_price_is_known(board: Scoreboard) -> None:
    row = _row()
    board.add(row, _paths(), BOOK, 200)
    assert (board.settle(), board.scored, board.unscored) == (0, 1, 0)
    assert row.crps is not None
    assert row.crps > 0
    assert (row.terms, row.terms_full, row.simulated) == (121, 121, True)
    shares = board.incentive()
    assert list(shares) == ["headframe", *FIELD]
    assert sum(shares.values()) == pytest.approx(1)
    assert board.means()[HIGH]["headframe"] == pytest.approx(row.crps)


def test_an_answer_near_the_truths_law_earns_most(board: Scoreboard) -> None:
    for number in range(12):
        board.add(_row(T + 600 * number), _paths(number), BOOK, 200)
    board.settle()
    shares, means = board.incentive(), board.means()[HIGH]
    assert max(shares, key=lambda name: shares[name]) == min(means, key=lambda name: means[name])
    assert shares["headframe"] > shares["flat"]
    assert shares["flat"] < 0.2


def test_an_invalid_answer_costs_the_cap(board: Scoreboard) -> None:
    row = _row()
    board.add(row, None, BOOK, 200)
    board.settle()
    assert row.crps == -1
    assert "headframe" not in board.means()[HIGH]
    shares = board.incentive()
    assert shares["headframe"] == min(shares.values())


def test_a_prompt_counts_once_by_its_first_answer(board: Scoreboard) -> None:
    first, second = _row(), _row()
    board.add(first, _paths(), BOOK, 200)
    board.add(second, None, BOOK, 200)
    board.settle()
    assert second.crps == -1
    assert board.scored == 1
    assert board.means()[HIGH]["headframe"] == first.crps


def test_live_answers_wait_for_the_last_price(board: Scoreboard, market: _Market) -> None:
    row = _row()
    board.add(row, _paths(), BOOK, 200)
    assert board.settle(T + LENGTH + 89.0) == 1
    assert market.looks == 0
    market.until = T + LENGTH - 60
    assert board.settle(T + LENGTH + 90.0) == 1
    assert (row.crps, board.unscored) == (None, 1)
    market.until = T + LENGTH
    assert board.settle(T + LENGTH + 90.0) == 0
    assert row.crps is not None


def _long_book() -> PriceBook:
    """A book as the sidecar writes it, with no number that another shares."""
    history = {
        str(step): Points([T - step * n for n in range(512)], [100 + n / 7 for n in range(512)]) for step in (60, 3600)
    }
    return PriceBook(
        as_of=T, written_at=0.0, assets={Asset("BTC"): AssetPrices(100.0, T, "pyth", False, False, history)}
    )


def test_an_answer_that_waits_takes_no_memory_to_speak_of(board: Scoreboard) -> None:
    rows = [_row(T + 60 * number) for number in range(65)]
    board.add(rows[0], _paths(), _long_book(), 200)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for row in rows[1:]:
            board.add(row, _paths(), _long_book(), 200)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 64 < 2_000  # the paths alone are 98 kB, the prices known 74 kB
    assert board.settle() == 0
    assert board.scored == 65


def test_what_was_scored_leaves_the_disk(board: Scoreboard, market: _Market) -> None:
    folder = Path(board._folder.name)
    board.add(_row(), _paths(), BOOK, 200)
    board.add(_row(T + 86_400), None, BOOK, 200)
    assert len(list(folder.iterdir())) == 3
    assert board.settle(T + LENGTH + 90.0) == 1
    assert len(list(folder.iterdir())) == 1
    board.settle()
    assert list(folder.iterdir()) == []


def test_without_any_price_nothing_is_scored(board: Scoreboard, market: _Market) -> None:
    market.until = T
    board.add(_row(), _paths(), BOOK, 200)
    board.add(_row(asset="ETH"), _paths(), BOOK, 200)
    assert board.settle() == 0
    assert (board.scored, board.unscored, board.incentive(), board.means()) == (0, 2, {}, {})


def test_both_slots_share_alike(board: Scoreboard) -> None:
    board.add(_row(), _paths(), BOOK, 200)
    board.add(_row(slot=LOW), None, BOOK, 200)
    board.settle()
    assert set(board.means()) == {HIGH, LOW}
    assert sum(board.incentive().values()) == pytest.approx(1)


def test_rows_before_the_window_are_forgotten(board: Scoreboard) -> None:
    board.add(_row(T), None, BOOK, 200)
    board.settle()
    early = board.incentive()["headframe"]
    board.add(_row(T + 4 * 86_400), _paths(), BOOK, 200)
    board.settle()
    assert board.scored == 2
    alone = board.incentive()["headframe"]
    assert alone > early
