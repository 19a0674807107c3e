"""What the traffic record lets a candidate do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from flows.guards import Finding, Pace, judge, tally
from serving.traffic.records import TrafficRecord
from tests.flows.traffic import answer

NEW, OLD = "synth-high-new", "synth-high-old"


def look(records: Sequence[TrafficRecord], *, need: int = 5, pace: Pace | None = None) -> Finding:
    return judge(records, candidate=NEW, stable=OLD, role="canary", need=need, pace=pace or Pace())


def many(count: int, release: str, role: str, **more: object) -> list[TrafficRecord]:
    return [answer(release, role, **more) for _ in range(count)]  # type: ignore[arg-type]


def test_no_traffic_holds_for_ever() -> None:
    assert look([]).word == "hold"
    found = look(many(500, OLD, "stable"))
    assert (found.word, found.reason) == ("hold", "no canary traffic has reached the candidate yet")


def test_enough_good_answers_go_on_and_one_less_does_not() -> None:
    assert look(many(5, NEW, "canary")).word == "go"
    found = look(many(4, NEW, "canary"))
    assert (found.word, found.reason) == ("hold", "4 of 5 canary answers so far")


def test_answers_in_another_role_do_not_count() -> None:
    assert look(many(50, NEW, "shadow")).word == "hold"


def test_refusals_for_the_callers_own_fault_count_for_nobody() -> None:
    records = [*many(3, NEW, "canary"), *many(50, NEW, "canary", code="bad_input")]
    found = look(records)
    assert (found.word, found.candidate.asked) == ("hold", 3)


def test_one_invalid_answer_stops_it_at_once() -> None:
    found = look([*many(50, NEW, "canary"), answer(NEW, "canary", code="invalid")])
    assert found.word == "abort"
    assert "1 of 51 answers broke the validator's rules" in found.reason


@pytest.mark.parametrize("code", ["error", "too_late"])
def test_failures_stop_it_unless_stable_fails_as_often(code: str) -> None:
    ours = [*many(5, NEW, "canary"), answer(NEW, "canary", code=code)]
    assert look([*ours, *many(20, OLD, "stable")]).word == "abort"
    shared = [*many(10, OLD, "stable"), *many(2, OLD, "stable", code=code)]
    assert look([*ours, *shared]).word == "go"


def test_a_slow_candidate_is_stopped_once_both_answered_enough() -> None:
    slow = many(10, NEW, "canary", ms=600.0)
    assert look([*slow, *many(9, OLD, "stable", ms=50.0)]).word == "go"
    found = look([*slow, *many(10, OLD, "stable", ms=50.0)])
    assert (found.word, found.reason) == ("abort", "median 600 ms against stable's 50 ms (limit 400 ms)")
    assert look([*many(10, NEW, "canary", ms=390.0), *many(10, OLD, "stable", ms=50.0)]).word == "go"


def test_an_answer_that_eats_half_its_deadline_stops_it() -> None:
    found = look([*many(9, NEW, "canary"), answer(NEW, "canary", ms=31_000.0)])
    assert (found.word, found.reason) == ("abort", "an answer took 52% of its deadline")


def test_a_tally_counts_each_kind() -> None:
    records = [
        answer(NEW, "canary", ms=10.0), answer(NEW, "canary", ms=30.0), answer(NEW, "canary", code="invalid"),
        answer(NEW, "canary", code="error"),
    ]  # fmt: skip
    found = tally(records)
    assert (found.good, found.invalid, found.errors, found.asked, found.median_ms) == (2, 1, 1, 4, 20.0)
    assert found.error_share == 0.25
