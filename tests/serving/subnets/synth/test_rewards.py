"""Prompt scores, leaderboard and softmax equal the subnet's own code."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pytest

from serving.subnets.synth.rewards import Reward, Rows, backfill, combine, in_window, prompt_scores, rewards, softmax
from serving.subnets.synth.rules import ASSETS, HIGH, LOW, PROMPTS
from tests.serving.subnets.synth.vectors import load

SCORES = load("synth_prompt_scores.json")["cases"]
SOFTMAX = load("synth_softmax.json")["cases"]
AVERAGES = load("synth_moving_average.json")
SLOTS = {"low": LOW, "high": HIGH}


def _unix(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def _names(cases: list[dict[str, Any]]) -> list[str]:
    return [case["name"] for case in cases]


@pytest.mark.parametrize("case", SCORES, ids=_names(SCORES))
def test_prompt_scores(case: dict[str, Any]) -> None:
    got = prompt_scores(case["sums"])
    assert got.percentile90 == pytest.approx(case["percentile90"], rel=1e-9, nan_ok=True)
    assert got.lowest == pytest.approx(case["lowest_score"], rel=1e-9, nan_ok=True)
    if case["prompt_scores"] is None:
        assert got.scores is None
    else:
        assert got.scores is not None
        np.testing.assert_allclose(got.scores, case["prompt_scores"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", SOFTMAX, ids=_names(SOFTMAX))
def test_softmax(case: dict[str, Any]) -> None:
    np.testing.assert_allclose(softmax(case["scores"], case["beta"]), case["weights"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", AVERAGES["cases"], ids=_names(AVERAGES["cases"]))
def test_leaderboard_and_rewards(case: dict[str, Any]) -> None:
    now = _unix(case["now"])
    uids = None if case["miner_uid"] is None else {int(miner): uid for miner, uid in case["miner_uid"].items()}
    parts: list[list[Reward] | None] = []
    for label, wanted in case["prompts"].items():
        prompt = PROMPTS[SLOTS[label]]
        assert (prompt.beta, prompt.coefficient) == (wanted["softmax_beta"], wanted["coefficient"])
        assert prompt.window_days == wanted["window_days"]
        rows = Rows.of([(_unix(row[0]), *row[1:]) for row in wanted["rows"]])
        _same_rows(backfill(rows), wanted["prepared_rows"])
        got = rewards(rows, now, prompt, uids)
        parts.append(got)
        _same_rewards(got, wanted["rewards"])
    total = combine(parts)
    assert total == pytest.approx({row["miner_id"]: row["reward_weight"] for row in case["combined"]}, rel=1e-9)


def _same_rows(got: Rows, wanted: list[Any]) -> None:
    assert got.times.tolist() == [_unix(row[0]) for row in wanted]
    assert got.miners.tolist() == [row[1] for row in wanted]
    assert got.assets.tolist() == [row[2] for row in wanted]
    expected = np.array([row[3] for row in wanted], dtype=np.float64)
    np.testing.assert_allclose(got.scores, expected, rtol=1e-9, atol=1e-9)


def _same_rewards(got: list[Reward] | None, wanted: list[dict[str, Any]] | None) -> None:
    if wanted is None:
        assert got is None
        return
    assert got is not None
    assert [(row.miner, row.uid) for row in got] == [(row["miner_id"], row["miner_uid"]) for row in wanted]
    assert [row.smoothed for row in got] == pytest.approx([row["smoothed_score"] for row in wanted], rel=1e-9)
    assert [row.weight for row in got] == pytest.approx([row["reward_weight"] for row in wanted], rel=1e-9)


def test_asset_weights_are_the_subnets() -> None:
    assert {name: rule.weight for name, rule in ASSETS.items()} == AVERAGES["asset_coefficients"]


def test_the_window_starts_before_now() -> None:
    day = 86_400
    rows = Rows.of([(moment, 1, "BTC", 0.0, 1.0, 0.0) for moment in (day, 7 * day, 10 * day)])
    assert in_window(rows, 10.0 * day, PROMPTS[HIGH]).times.tolist() == [7 * day, 10 * day]
    assert in_window(rows, 10.0 * day, PROMPTS[LOW]).times.tolist() == [day, 7 * day, 10 * day]
