"""CRPS equals the subnet's own code on every kind of interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serving.subnets.synth.rules import HIGH, LOW, PROMPTS
from serving.subnets.synth.scoring import INVALID, ensemble_crps, prompt_score, score, stored_score
from tests.serving.subnets.synth.vectors import DATA, load

GOLDEN = load("synth_crps.json")
CASES = GOLDEN["cases"]


@pytest.fixture(scope="module")
def arrays() -> Any:
    with np.load(DATA / "synth_crps.npz") as found:
        yield found


def test_prompts_have_the_subnets_intervals() -> None:
    for slot, label in ((LOW, "low"), (HIGH, "high")):
        assert [list(pair) for pair in PROMPTS[slot].intervals] == GOLDEN["interval_sets"][label]
    assert (PROMPTS[LOW].terms, PROMPTS[HIGH].terms) == (345, 121)
    assert (PROMPTS[LOW].points, PROMPTS[HIGH].points) == (289, 61)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_golden_case(case: dict[str, Any], arrays: Any) -> None:
    paths = arrays[f"{case['key']}_paths"].astype(np.float64)
    real = arrays[f"{case['key']}_real"]
    intervals = [(name, seconds) for name, seconds in case["scoring_intervals"]]
    if case["exception"]:
        with pytest.raises(ValueError, match=r"do not fit|shorter"):
            score(paths, real, case["time_increment"], intervals)
        return
    got = score(paths, real, case["time_increment"], intervals)
    assert got.total == pytest.approx(case["total"], rel=1e-9, abs=1e-9, nan_ok=True)
    assert got.stored == pytest.approx(case["score_stored_by_validator"], rel=1e-9, abs=1e-9)
    assert got.per_interval == pytest.approx(case["per_interval"], rel=1e-9, abs=1e-9, nan_ok=True)
    assert {name: values.size for name, values in got.terms.items()} == case["n_terms"]
    if got.terms:
        flat = np.concatenate(list(got.terms.values()))
        np.testing.assert_allclose(flat, arrays[f"{case['key']}_terms"], rtol=1e-9, atol=1e-9)


def test_every_case_is_a_named_one() -> None:
    assert len(CASES) == 28


def test_crps_is_the_double_sum() -> None:
    draws = np.random.default_rng(5)
    members, observed = draws.normal(100, 3, (4, 17)), draws.normal(100, 3, 4)
    pairs = np.abs(members[:, :, None] - members[:, None, :]).sum(axis=(1, 2))
    slow = np.abs(members - observed[:, None]).mean(axis=1) - pairs / (2 * 17**2)
    np.testing.assert_allclose(ensemble_crps(members, observed), slow, rtol=1e-12)


def test_a_missing_member_is_left_out() -> None:
    with_gap = np.array([[1.0, np.nan, 4.0, 2.0], [5.0, 6.0, 7.0, 9.0]])
    observed = np.array([3.0, 6.5])
    alone = ensemble_crps(np.array([[1.0, 4.0, 2.0]]), observed[:1])
    whole = ensemble_crps(with_gap[1:], observed[1:])
    np.testing.assert_allclose(ensemble_crps(with_gap, observed), np.concatenate([alone, whole]), rtol=1e-14)


def test_an_answer_that_cannot_be_scored_is_stored_as_invalid() -> None:
    prompt = PROMPTS[HIGH]
    real = np.full(61, 100.0)
    assert stored_score(np.full((5, 60), 100.0), real, prompt) == INVALID
    assert stored_score(np.full((5, 61), np.nan), real, prompt) == INVALID
    assert stored_score(np.zeros((5, 61)), real, prompt) == INVALID


def test_the_input_is_left_alone() -> None:
    draws = np.random.default_rng(6)
    paths, real = 100 + draws.normal(0, 1, (20, 61)), 100 + draws.normal(0, 1, 61)
    before = paths.copy()
    first = prompt_score(paths, real, PROMPTS[HIGH])
    assert np.array_equal(paths, before)
    assert first.total == prompt_score(paths[::-1], real, PROMPTS[HIGH]).total
    assert first.n_terms == 121
