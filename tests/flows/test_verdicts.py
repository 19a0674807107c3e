"""The gate's truth table: what all checks say together."""

from __future__ import annotations

import itertools

import pytest

from flows.verdicts import NAMES, Check, skipped, summary, whole
from infra.ledger import Outcome

OUTCOMES: tuple[Outcome, ...] = ("pass", "fail", "inconclusive", "skipped")


def checks(**said: Outcome) -> list[Check]:
    """Every check skipped but those given."""
    return [Check(name, said.get(name, "skipped"), f"{name}'s reason") for name in NAMES]


@pytest.mark.parametrize(("score", "other"), list(itertools.product(OUTCOMES, OUTCOMES)))
def test_a_pass_needs_the_score_and_nothing_against_it(score: Outcome, other: Outcome) -> None:
    verdict = whole(checks(score=score, validity=other))
    if "fail" in (score, other):
        assert verdict == "fail"
    elif score == "pass" and other in {"pass", "skipped"}:
        assert verdict == "pass"
    else:
        assert verdict == "inconclusive"


def test_nothing_checked_is_no_pass() -> None:
    assert whole([]) == "inconclusive"
    assert whole(checks()) == "inconclusive"


def test_the_summary_names_what_decided() -> None:
    assert summary(checks(score="pass", validity="fail", load="pass")) == "validity: validity's reason"
    assert summary(checks(score="inconclusive")) == "score: score's reason"
    assert summary(checks(score="pass", load="pass")) == "score: score's reason"
    assert summary(checks(load="pass")) == "score: score's reason"


def test_a_check_in_a_report_is_its_verdict_reason_and_evidence() -> None:
    made = Check("latency", "pass", "quick", {"budget_s": 15.0})
    assert made.as_dict() == {"name": "latency", "verdict": "pass", "reason": "quick", "budget_s": 15.0}
    assert skipped("worth", "no price").as_dict() == {"name": "worth", "verdict": "skipped", "reason": "no price"}
